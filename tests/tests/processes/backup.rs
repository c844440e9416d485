//! Backup, a lost cluster, restore: through the command line alone.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use streamhouse_tests::{Finished, LocalCluster, sorted, until};

fn rows(from: usize, count: usize) -> Vec<Vec<u8>> {
    (from..from + count).map(|n| format!("row {n}").into_bytes()).collect()
}

fn produce(cluster: &LocalCluster, topic: &str, rows: &[Vec<u8>]) {
    let produced = cluster.run_with_input(
        &["produce", topic, "--output", "json"],
        &[rows.join(&b'\n'), b"\n".to_vec()].concat(),
    );
    assert_eq!(produced.ok().json()["acknowledged"], rows.len());
}

fn consume(cluster: &LocalCluster, topic: &str) -> Vec<Vec<u8>> {
    sorted(cluster.run(&["consume", topic, "--to-end"]).ok().lines())
}

fn back_up(cluster: &LocalCluster) -> Value {
    cluster.run(&["cluster", "backup", "--output", "json"]).ok().json()
}

fn restore(cluster: &LocalCluster, from: &str) -> Finished {
    cluster.run(&["cluster", "restore", "--from", from, "--output", "json"])
}

/// The file of a backup in a `file://` store.
fn file_of(backup: &Value) -> PathBuf {
    let url = backup["backup"].as_str().unwrap();
    PathBuf::from(url.strip_prefix("file://").unwrap())
}

/// The keys of all objects that agents wrote.
fn objects(cluster: &LocalCluster) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(&cluster.objects(), &mut found);
    found.retain(|path| path.contains("/l0/"));
    found.sort();
    found
}

/// All of it is gone but the bucket; a new cluster takes its place, without agents.
fn lose_and_found_anew(cluster: &mut LocalCluster, controllers: usize) {
    cluster.kill_agent(1);
    cluster.kill_all_controllers();
    for n in 1..=controllers {
        fs::remove_dir_all(cluster.controller_data(n)).unwrap();
        cluster.start_controller(n);
    }
    cluster.wait_until_whole();
}

#[test]
fn a_lost_cluster_comes_back_with_what_was_acknowledged_after_the_backup() {
    let mut cluster = LocalCluster::start(3, 1);
    cluster.run(&["topic", "create", "orders", "--partitions", "3"]).ok();
    cluster.run(&["topic", "create", "quiet", "--partitions", "2"]).ok();
    let before = rows(0, 300);
    produce(&cluster, "orders", &before);
    let group = ["consume", "orders", "--group", "g", "--to-end"];
    assert_eq!(cluster.run(&group).ok().lines().len(), before.len());
    let backup = back_up(&cluster);
    let from = backup["backup"].as_str().unwrap();
    let folder = from.rsplit_once('/').unwrap().0.to_owned();
    assert!(folder.ends_with(&format!("{}/backups", backup["cluster"].as_str().unwrap())));
    assert_eq!(fs::metadata(file_of(&backup)).unwrap().len(), backup["bytes"].as_u64().unwrap());

    // Acknowledged after the backup: by the agent of before, and by one that registered later, under other epochs.
    let after = rows(300, 200);
    produce(&cluster, "orders", &after[..100]);
    cluster.kill_agent(1);
    cluster.start_agent(1);
    cluster.wait_until_whole();
    produce(&cluster, "orders", &after[100..]);
    cluster.run(&["topic", "create", "late", "--partitions", "1"]).ok();
    produce(&cluster, "late", &rows(0, 7));
    // A living cluster is not restored into.
    let alive = restore(&cluster, from);
    assert!(alive.error().contains("this cluster is not empty: it has topics"), "{}", alive.stderr);
    assert_eq!(consume(&cluster, "late"), rows(0, 7));

    lose_and_found_anew(&mut cluster, 3);
    let kept = objects(&cluster);
    let contents =
        |paths: &[String]| -> Vec<_> { paths.iter().map(|p| fs::read(p).unwrap()).collect() };
    let bytes = contents(&kept);
    // The newest in the folder is the one that there is.
    let restored = restore(&cluster, &folder).ok().json();
    assert_eq!(restored["cluster"], backup["cluster"]);
    assert_eq!(restored["backup_index"], backup["backup_index"]);
    assert_eq!(restored["backup"], backup["backup"]);
    assert!(restored["generation"].as_str().unwrap().starts_with("00000002-"), "{restored}");
    assert_eq!((&restored["topics"], &restored["partitions"]), (&2.into(), &5.into()));
    assert_eq!(restored["rolled_forward"]["records"], after.len());
    assert_eq!(restored["missing_objects"], serde_json::json!([]));
    // What has no place is named.
    let not_placed = restored["not_placed"].as_array().unwrap();
    let records: u64 = not_placed.iter().map(|slice| slice["records"].as_u64().unwrap()).sum();
    assert_eq!(records, 7, "{restored}");
    for slice in not_placed {
        assert!(slice["reason"].as_str().unwrap().contains("created after"), "{slice}");
        let object = cluster.objects().join(slice["object"].as_str().unwrap());
        assert!(object.is_file(), "{slice}");
    }
    assert_eq!(contents(&kept), bytes, "nothing in the bucket was touched");

    // Not a second time.
    let again = restore(&cluster, from);
    assert!(again.error().contains("not empty"), "{}", again.stderr);

    cluster.start_agent(1);
    cluster.wait_until_whole();
    let all: Vec<_> = before.iter().chain(&after).cloned().collect();
    assert_eq!(consume(&cluster, "orders"), sorted(all.clone()));
    assert!(consume(&cluster, "quiet").is_empty());
    // The group goes on where it was at the time of the backup.
    assert_eq!(sorted(cluster.run(&group).ok().lines()), sorted(after));

    // New records lie under the new generation, so under no old key.
    let new = rows(500, 50);
    produce(&cluster, "orders", &new);
    produce(&cluster, "quiet", &rows(0, 3));
    let generation = format!("/{}-", restored["generation"].as_str().unwrap());
    let written: Vec<_> = objects(&cluster).into_iter().filter(|key| !kept.contains(key)).collect();
    assert!(!written.is_empty() && written.iter().all(|key| key.contains(&generation)));
    assert_eq!(consume(&cluster, "orders"), sorted([all.clone(), new.clone()].concat()));

    // Controllers that restart, and one that was away, are of the same mind.
    cluster.stop_controller(2);
    cluster.start_controller(2);
    cluster.wait_until_whole();
    until("all controllers agree", Duration::from_secs(60), || {
        let status = cluster.try_status()?;
        let controllers = status["controllers"].as_array()?.clone();
        let same = |field: &str| controllers.iter().all(|c| c[field] == controllers[0][field]);
        (controllers.len() == 3 && same("applied") && same("state_hash")).then_some(())
    });

    // And once more, from the first backup, though the cluster has lived under another generation since: it goes
    // on through both.
    lose_and_found_anew(&mut cluster, 3);
    let restored = restore(&cluster, from).ok().json();
    assert!(restored["generation"].as_str().unwrap().starts_with("00000003-"), "{restored}");
    assert_eq!(restored["rolled_forward"]["records"], 200 + 50 + 3);
    cluster.start_agent(1);
    cluster.wait_until_whole();
    assert_eq!(consume(&cluster, "orders"), sorted([all, new].concat()));
    assert_eq!(consume(&cluster, "quiet"), rows(0, 3));
}

#[test]
fn what_cannot_be_used_is_refused_and_changes_nothing() {
    let mut cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    produce(&cluster, "t", &rows(0, 20));
    let backup = back_up(&cluster);
    let from = backup["backup"].as_str().unwrap();
    let file = fs::read(file_of(&backup)).unwrap();
    let elsewhere = cluster.folder().join("elsewhere");
    let url = |name: &str| format!("file://{}/{name}", elsewhere.display());

    // A name of the operator's choice, which is written once.
    let to = url("mine.backup");
    let named = cluster.run(&["cluster", "backup", "--to", &to, "--output", "json"]).ok().json();
    assert_eq!(named["backup"], to.as_str());
    produce(&cluster, "t", &rows(20, 1));
    let taken = cluster.run(&["cluster", "backup", "--to", &to]);
    assert!(taken.error().contains("exists already"), "{}", taken.stderr);
    assert_eq!(
        fs::metadata(elsewhere.join("mine.backup")).unwrap().len(),
        named["bytes"].as_u64().unwrap()
    );

    lose_and_found_anew(&mut cluster, 1);
    let status = cluster.try_status().unwrap();
    let mut flipped = file.clone();
    flipped[file.len() / 2] ^= 4;
    let mut newer = file.clone();
    newer[8] = 9;
    for (name, bytes, said, code) in [
        ("flipped.backup", &flipped[..], "is damaged", 5),
        ("short.backup", &file[..file.len() - 9], "is damaged: it is cut off", 5),
        ("newer.backup", &newer[..], "format version 9", 5),
        ("other.backup", b"any other file", "is not a backup", 5),
    ] {
        fs::write(elsewhere.join(name), bytes).unwrap();
        let refused = restore(&cluster, &url(name));
        assert!(refused.error().contains(said), "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
        assert_eq!(refused.code, Some(code), "{name}");
    }
    fs::create_dir(elsewhere.join("empty")).unwrap();
    for (from, said) in [
        (url("nothing.backup"), "there is no backup"),
        (url("empty"), "there is no backup in"),
        ("nonsense".to_owned(), "has no scheme"),
        (url("nowhere/x.backup"), "nowhere"),
    ] {
        let refused = restore(&cluster, &from);
        assert!(refused.error().contains(said), "{from}: {}", refused.stderr);
    }
    let unreachable = streamhouse_tests::run(&[
        "cluster",
        "restore",
        "--from",
        from,
        "--controllers",
        "127.0.0.1:1",
    ]);
    assert_eq!(unreachable.code, Some(4), "{}", unreachable.stderr);
    let refused = cluster.run(&["cluster", "restore", "--from", from, "--no-objects"]);
    assert!(refused.error().contains("names a store"), "{}", refused.stderr);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let other = url("empty");
    let refused = cluster.run(&["cluster", "restore", "--from", from, "--store", &other]);
    assert!(refused.error().contains("/marker is not there"), "{}", refused.stderr);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let now = cluster.try_status().unwrap();
    assert_eq!(now["cluster"], status["cluster"], "it is still the empty one that it was");

    // An object that the index needs is gone, another cannot be read: both are named, and the rest comes back.
    let first = objects(&cluster);
    let (gone, last) = (&first[0], &first[first.len() - 1]);
    fs::remove_file(gone).unwrap();
    let mut damaged = fs::read(last).unwrap();
    let at = damaged.len() - 20;
    damaged[at] ^= 1;
    fs::write(last, damaged).unwrap();
    let restored = restore(&cluster, from).ok().json();
    let missing = restored["missing_objects"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "{restored}");
    assert!(gone.ends_with(missing[0].as_str().unwrap()));
    let not_placed = restored["not_placed"].as_array().unwrap();
    assert_eq!(not_placed.len(), 1, "{restored}");
    assert!(not_placed[0]["reason"].as_str().unwrap().contains("footer"), "{restored}");
    assert!(last.ends_with(not_placed[0]["object"].as_str().unwrap()));
}

#[test]
fn a_backup_from_before_the_first_agent_needs_to_be_told_where_the_objects_are() {
    let mut cluster = LocalCluster::start(1, 1);
    lose_and_found_anew(&mut cluster, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let elsewhere = tempfile::tempdir().unwrap();
    let to = format!("file://{}", elsewhere.path().display());
    let taken = cluster.run(&["cluster", "backup", "--to", &to, "--output", "json"]).ok().json();
    let from = taken["backup"].as_str().unwrap();
    cluster.start_agent(1);
    cluster.wait_until_whole();
    produce(&cluster, "t", &rows(0, 40));

    lose_and_found_anew(&mut cluster, 1);
    let refused = restore(&cluster, from);
    assert!(refused.error().contains("names no store"), "{}", refused.stderr);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let with = |flags: &[&str]| {
        let command = ["cluster", "restore", "--from", from, "--output", "json"];
        cluster.run(&[&command, flags].concat())
    };
    let refused = with(&["--store", &to]);
    assert!(refused.error().contains("/marker is not there"), "{}", refused.stderr);
    let own = format!("file://{}", cluster.objects().display());
    assert_eq!(with(&["--store", &own, "--no-objects"]).code, Some(2));
    let restored = with(&["--store", &own]).ok().json();
    assert_eq!(restored["rolled_forward"]["records"], 40, "{restored}");
    assert_eq!(restored["store"], own);
    cluster.start_agent(1);
    cluster.wait_until_whole();
    assert_eq!(consume(&cluster, "t"), sorted(rows(0, 40)));

    lose_and_found_anew(&mut cluster, 1);
    let restored = cluster.run(&["cluster", "restore", "--from", from, "--no-objects"]).ok();
    let said = String::from_utf8_lossy(&restored.stdout);
    assert!(said.contains("no object was looked for"), "{said}");
}

#[test]
fn the_leader_backs_up_on_a_schedule_and_keeps_the_newest() {
    let cluster =
        LocalCluster::start_with_flags(3, 1, &["--backup-every", "1s", "--backup-keep", "2"]);
    cluster.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let backups = || {
        let mut found = Vec::new();
        for folder in fs::read_dir(cluster.objects()).ok()?.flatten() {
            let entries = fs::read_dir(folder.path().join("backups"));
            found.extend(entries.into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        found.retain(|path| path.extension().is_some_and(|extension| extension == "backup"));
        found.sort();
        Some(found)
    };
    let patience = Duration::from_secs(60);
    let first = until("there is a backup", patience, || backups()?.into_iter().next());
    // It goes when two newer ones are there; never are there fewer than one.
    until("the first one was removed", patience, || {
        // A cluster in which nothing happens needs no second backup.
        produce(&cluster, "t", &rows(0, 1));
        let now = backups()?;
        assert!(!now.is_empty());
        (!now.contains(&first)).then_some(())
    });
    until("two are left", patience, || (backups()?.len() == 2).then_some(()));
    // What is kept can be used.
    let file = until("one can be read", patience, || fs::read(backups()?.pop()?).ok());
    assert!(file.starts_with(b"SHBACKUP"));
}
