//! `cluster verify`: what is whole is found whole, and what is missing or altered in the bucket is named.
use std::fs;
use std::path::{Path, PathBuf};

use streamhouse_tests::{LocalCluster, sample_rows};

/// All objects of the cluster, by path.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(objects(&entry.path())),
            false if entry.path().to_string_lossy().contains("/l0/") => found.push(entry.path()),
            false => {}
        }
    }
    found.sort();
    found
}

#[test]
fn it_names_what_is_missing_and_what_is_altered() {
    let cluster = LocalCluster::start(3, 2);
    cluster.run(&["topic", "create", "flights", "--partitions", "4"]).ok();
    let input = sample_rows().join(&b'\n');
    cluster.run_with_input(&["produce", "flights", "--key-field", "10"], &input).ok();
    let verify = |deep: bool| {
        let args = ["cluster", "verify", "--output", "json", "--deep"];
        cluster.run(&args[..if deep { 5 } else { 4 }])
    };

    let whole = verify(true).ok().json();
    assert!(whole["replicas"]["identical_at"].is_u64(), "{whole}");
    assert_eq!(whole["verified_slices"], whole["entries"], "{whole}");
    assert_eq!(whole["problems"].as_array().unwrap().len(), 0, "{whole}");

    // Another bit in the middle of an object: only a look at the bytes shows it.
    let all = objects(&cluster.objects());
    let altered = &all[0];
    let mut bytes = fs::read(altered).unwrap();
    // Behind the header, so that it is a slice's.
    bytes[100] ^= 1;
    fs::write(altered, &bytes).unwrap();
    verify(false).ok();
    let found = verify(true);
    assert_eq!(found.code, Some(5), "{}", found.stderr);
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(text.contains("corrupt-slice") && text.contains(&name(altered)), "{text}");

    let gone = all.last().unwrap();
    fs::remove_file(gone).unwrap();
    let found = verify(false);
    assert_eq!(found.code, Some(5), "{}", found.stderr);
    let problems = found.json()["problems"].clone();
    let dangling = problems.as_array().unwrap().iter().find(|p| p["problem"] == "dangling-index");
    let object = dangling.unwrap()["object"].as_str().unwrap();
    assert!(gone.to_string_lossy().ends_with(object), "{object} is {}", gone.display());
}
