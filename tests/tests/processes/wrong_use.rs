//! Wrong use: each a clear one-line error that names the thing, a non-zero exit, and nothing lost.
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use streamhouse_tests::{LocalCluster, free_ports, run};

/// A cluster with the topic `t` of two partitions, and two records in it.
fn cluster() -> LocalCluster {
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    cluster.run_with_input(&["produce", "t", "--partition", "0"], b"one\ntwo\n").ok();
    cluster
}

fn values(cluster: &LocalCluster) -> Vec<Vec<u8>> {
    cluster.run(&["consume", "t", "--to-end"]).ok().lines()
}

#[test]
fn topics_that_are_not_there_or_there_already() {
    let cluster = cluster();
    for args in [
        &["topic", "describe", "nowhere"][..],
        &["topic", "delete", "nowhere"],
        &["produce", "nowhere"],
        &["consume", "nowhere", "--to-end"],
    ] {
        let wrong = cluster.run(args);
        assert!(wrong.error().contains("unknown topic nowhere"), "{args:?}: {}", wrong.stderr);
        assert_eq!(wrong.code, Some(3));
        assert!(wrong.stdout.is_empty());
    }
    let exists = cluster.run(&["topic", "create", "t", "--partitions", "7"]);
    assert!(exists.error().contains("topic t exists"), "{}", exists.stderr);
    assert_eq!(exists.code, Some(3));
    assert_eq!(cluster.partitions("t").len(), 2);
    assert_eq!(values(&cluster).len(), 2);
}

#[test]
fn topics_that_cannot_be() {
    let cluster = cluster();
    let long = "x".repeat(10_000);
    for (name, partitions, named) in [
        ("empty", "0", "partitions"),
        ("huge", "4000000000", "partitions"),
        ("../x", "1", "../x"),
        ("", "1", "empty"),
        ("..", "1", ".."),
        ("a b", "1", "a b"),
        (&long, "1", "249"),
    ] {
        let wrong = cluster.run(&["topic", "create", name, "--partitions", partitions]);
        let error = wrong.error();
        assert!(error.contains(named), "{name:.20}: {error}");
        assert!(error.len() < 1000, "{name:.20}: {error}");
    }
    let topics = cluster.run(&["topic", "list", "--output", "json"]).ok().json();
    assert_eq!(topics.as_array().unwrap().len(), 1);
}

#[test]
fn partitions_that_are_not_there() {
    let cluster = cluster();
    for args in [&["produce", "t", "--partition", "2"][..], &["consume", "t", "--partition", "2"]] {
        let wrong = cluster.run_with_input(args, b"x\n");
        assert!(wrong.error().contains("topic t has no partition 2"), "{}", wrong.stderr);
        assert_eq!(wrong.code, Some(3));
    }
    assert_eq!(values(&cluster).len(), 2);
}

#[test]
fn a_record_over_the_limit_ends_the_work_and_loses_nothing() {
    let cluster = cluster();
    let long = "x".repeat(1 << 21);
    let input = format!("three\n{long}\nnever sent\n");
    let wrong = cluster.run_with_input(&["produce", "t", "--output", "json"], input.as_bytes());
    let error = wrong.error();
    // The line, the topic, the size, the limit.
    for named in ["line 2", "topic t", "2097", "1048576"] {
        assert!(error.contains(named), "no {named} in {error}");
    }
    assert!(error.len() < 1000);
    let report = wrong.json();
    assert_eq!((&report["records"], &report["acknowledged"]), (&1.into(), &1.into()));
    let mut values = values(&cluster);
    values.sort();
    assert_eq!(values, [b"one".to_vec(), b"three".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_line_without_the_key_is_named() {
    let cluster = cluster();
    let wrong = cluster.run_with_input(&["produce", "t", "--key-field", "2"], b"a,b\nc\n");
    assert!(wrong.error().contains("line 2: has no field 2, only 1"), "{}", wrong.stderr);
    assert_eq!(values(&cluster).len(), 3);
}

#[test]
fn controllers_that_cannot_be_reached_are_named() {
    let port = free_ports(1)[0];
    let address = format!("127.0.0.1:{port}");
    let commands = [
        &["status"][..],
        &["topic", "list"],
        &["topic", "create", "t", "--partitions", "1"],
        &["produce", "t"],
        &["consume", "t"],
    ];
    // Side by side: each keeps trying for a while.
    thread::scope(|scope| {
        for args in commands {
            let address = &address;
            scope.spawn(move || {
                let wrong = run(&[args, &["--controllers", address]].concat());
                assert!(wrong.error().contains(address), "{args:?}: {}", wrong.stderr);
                assert_eq!(wrong.code, Some(4), "{args:?}");
            });
        }
    });
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let cluster = cluster();
    for file in ["/nowhere/x.csv", "/"] {
        let wrong = cluster.run(&["produce", "t", "--file", file]);
        assert!(wrong.error().contains(&format!("file {file}: ")), "{}", wrong.stderr);
    }
    assert_eq!(values(&cluster).len(), 2);
}

#[test]
fn a_store_that_cannot_be_written_stops_the_agent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = format!("file://{}/objects", file.path().display());
    let ports = free_ports(2);
    let [controller, listen] = [0, 1].map(|n| format!("127.0.0.1:{}", ports[n]));
    let agent = |store: &str| {
        run(&["agent", "--controllers", &controller, "--listen", &listen, "--store", store])
    };
    let wrong = agent(&store);
    assert!(wrong.error().contains(file.path().to_str().unwrap()), "{}", wrong.stderr);
    for nonsense in ["nonsense", "ftp://a/b", "file://relative/path"] {
        let wrong = agent(nonsense);
        assert!(wrong.error().contains(nonsense), "{}", wrong.stderr);
    }
}

#[test]
fn a_store_that_is_empty_or_another_cluster_s_stops_the_agent() {
    let mut cluster = cluster();
    cluster.kill_agent(1);
    let (objects, aside) = (cluster.objects(), cluster.folder().join("aside"));
    let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
    let store = format!("file://{}", objects.display());
    let agent = || cluster.run(&["agent", "--listen", &listen, "--store", &store]);
    // As when the disk is not mounted: the folder is there, and what was acknowledged is not.
    std::fs::rename(&objects, &aside).unwrap();
    let wrong = agent();
    assert!(wrong.error().contains(&store) && wrong.error().contains("it is empty"), "{wrong:?}");
    let strange = objects.join("00000000-0000-0000-0000-00000000002a");
    std::fs::create_dir_all(&strange).unwrap();
    std::fs::write(strange.join("marker"), "another's").unwrap();
    let wrong = agent();
    assert!(wrong.error().contains("2a/marker is"), "{}", wrong.stderr);
    // The right one is known again.
    std::fs::remove_dir_all(&objects).unwrap();
    std::fs::rename(&aside, &objects).unwrap();
    cluster.start_agent(1);
    cluster.wait_until_whole();
}

#[test]
fn a_corrupted_object_is_never_read_as_records() {
    let cluster = cluster();
    let object = only_object(&cluster.objects());
    let sound = fs::read(&object).unwrap();
    let inspect = || run(&["segment", "inspect", object.to_str().unwrap(), "--output", "json"]);
    let inspected = inspect().ok().json();
    assert_eq!(inspected["records"], 2);
    assert_eq!(inspected["verified"], true);

    // One bit of the slice's last byte; the slice begins behind the header, at byte 64.
    let slice_end = 64 + inspected["slices"][0]["length"].as_u64().unwrap() as usize;
    let mut broken = sound.clone();
    broken[slice_end - 1] ^= 1;
    fs::write(&object, &broken).unwrap();
    let wrong = inspect();
    for named in [object.to_str().unwrap(), "slice 0", "checksum"] {
        assert!(wrong.error().contains(named), "no {named} in {}", wrong.stderr);
    }
    assert_eq!(wrong.code, Some(5));
    let wrong = cluster.run(&["consume", "t", "--to-end"]);
    assert!(wrong.error().contains("t/0"), "{}", wrong.stderr);
    assert_eq!(wrong.code, Some(5));
    assert!(wrong.stdout.is_empty());

    // Any other damage is found, too.
    for at in [0, 20, 62, slice_end + 10, sound.len() - 1] {
        let mut broken = sound.clone();
        broken[at] ^= 0x40;
        fs::write(&object, &broken).unwrap();
        assert_eq!(inspect().code, Some(5), "byte {at}: {:?}", inspect());
    }
    fs::write(&object, &sound[..sound.len() / 2]).unwrap();
    assert_eq!(inspect().code, Some(5));

    // Mended, it reads as before: nothing was skipped meanwhile.
    fs::write(&object, &sound).unwrap();
    assert_eq!(values(&cluster), [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn an_object_that_is_not_there_is_named() {
    for missing in ["/nowhere/object", "file:///nowhere/object"] {
        let wrong = run(&["segment", "inspect", missing]);
        assert!(wrong.error().contains("/nowhere/object"), "{}", wrong.stderr);
    }
    assert_eq!(run(&["segment", "inspect", "s3://bucket"]).code, Some(2));
}

#[test]
fn unknown_flags_are_named() {
    for command in ["up", "down", "status", "topic", "produce", "consume", "segment", "agent"] {
        let wrong = run(&[command, "--frobnicate"]);
        assert!(wrong.error().contains("--frobnicate"), "{}", wrong.stderr);
        assert_eq!(wrong.code, Some(2));
    }
}

#[test]
fn processes_refuse_what_cannot_work() {
    for (args, named) in [
        (&["--node-id", "4"][..], "--node-id 4"),
        (&["--node-id", "1", "--listen", "127.0.0.1:0"], "port 0"),
        (&["--node-id", "1", "--listen", "127.0.0.1"], "127.0.0.1"),
    ] {
        let common = ["controller", "--peers", "1=127.0.0.1:9", "--data", "/nowhere/data"];
        let listen: &[&str] =
            if args.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:9"] };
        let wrong = run(&[&common[..], args, listen].concat());
        assert!(wrong.error().contains(named), "{}", wrong.stderr);
        assert_eq!(wrong.code, Some(2));
    }
    let everywhere = ["agent", "--listen", "0.0.0.0:7999", "--store", "file:///nowhere"];
    let wrong = run(&everywhere);
    assert!(wrong.error().contains("--advertise"), "{}", wrong.stderr);
}

/// The one object below `folder`.
fn only_object(folder: &Path) -> PathBuf {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains("/l0/") {
                files.push(path);
            }
        }
    }
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}
