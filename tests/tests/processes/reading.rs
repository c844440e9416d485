//! The read path of real processes: the cache folder, offsets by time, where a record lies, the memory limit.
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use streamhouse_tests::{LocalCluster, sample_file, sample_rows};

fn with_sample(partitions: &str) -> LocalCluster {
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "flights", "--partitions", partitions]).ok();
    let file = sample_file();
    let file = file.to_str().unwrap();
    cluster.run(&["produce", "flights", "--file", file, "--skip-header", "--key-field", "10"]).ok();
    cluster
}

fn bench(cluster: &LocalCluster, more: &[&str]) -> Value {
    let args = [&["bench", "consume", "--output", "json"], more].concat();
    cluster.run(&args).ok().json()
}

/// What a command says that fails with that exit code.
fn fails(cluster: &LocalCluster, args: &[&str], code: i32) -> String {
    let finished = cluster.run(args);
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    finished.error().to_owned()
}

#[test]
fn a_second_reader_finds_everything_in_the_cache_folder() {
    let cluster = with_sample("4");
    let rows = sample_rows().len();
    let folder = cluster.folder().join("cache");
    let dir = folder.to_str().unwrap();
    let args = ["--topic", "flights", "--cache-dir", dir];
    let first = bench(&cluster, &args);
    assert_eq!((&first["records"], &first["cache_hits"]), (&rows.into(), &0.into()));
    assert!(first["get_requests"].as_u64().unwrap() > 0);
    let second = bench(&cluster, &args);
    assert_eq!((&second["records"], &second["get_requests"]), (&rows.into(), &0.into()));
    assert!(second["cache_hits"].as_u64().unwrap() > 0);
    // It may be deleted at any time.
    std::fs::remove_dir_all(&folder).unwrap();
    let third = bench(&cluster, &args);
    assert_eq!((&third["records"], &third["cache_hits"]), (&rows.into(), &0.into()));
}

#[test]
fn as_many_records_are_read_as_were_asked_for() {
    let cluster = with_sample("2");
    let read = bench(&cluster, &["--topic", "flights", "--records", "1000"]);
    assert_eq!(read["records"], 1000);
    for field in ["bytes", "bytes_fetched", "get_requests", "look_ups", "peak_memory_bytes"] {
        assert!(read[field].as_u64().unwrap() > 0, "{field}: {read}");
    }
    for field in ["seconds", "records_per_second", "mb_per_second", "cpu_seconds"] {
        assert!(read[field].as_f64().unwrap() >= 0.0, "{field}: {read}");
    }
}

#[test]
fn offsets_are_found_by_time() {
    let cluster = with_sample("1");
    let rows = sample_rows().len();
    let offsets = |more: &[&str]| {
        let args = [&["topic", "offsets", "flights", "--output", "json"], more].concat();
        cluster.run(&args).ok().json()["partitions"][0].clone()
    };
    let plain = offsets(&[]);
    assert_eq!((&plain["log_start"], &plain["high_watermark"]), (&0.into(), &rows.into()));
    assert_eq!(plain.get("found"), None);
    assert_eq!(offsets(&["--at", "-1h"])["found"]["offset"], 0);
    assert_eq!(offsets(&["--at", "2999-01-01T00:00:00Z"])["found"], Value::Null);
    let first = offsets(&["--at", "-1h"])["found"]["timestamp"].as_i64().unwrap();
    assert_eq!(offsets(&["--at", &first.to_string()])["found"]["offset"], 0);
    let wrong = fails(&cluster, &["topic", "offsets", "flights", "--at", "soon"], 2);
    assert!(wrong.contains("'soon' is no time"), "{wrong}");
    fails(&cluster, &["topic", "offsets", "nope"], 3);
}

#[test]
fn a_record_is_explained_down_to_its_batch() {
    let cluster = with_sample("1");
    let explained =
        cluster.run(&["explain", "flights", "0", "1234", "--output", "json"]).ok().json();
    let number = |part: &str, field: &str| explained[part][field].as_u64().unwrap();
    for part in ["slice", "batch"] {
        assert!(number(part, "base_offset") <= 1234 && 1234 <= number(part, "last_offset"));
    }
    // The object is there, and is what the index says.
    let object = cluster.objects().join(explained["object"].as_str().unwrap());
    let object = object.to_str().unwrap();
    let inspected = cluster.run(&["segment", "inspect", object, "--output", "json"]).ok().json();
    assert_eq!(inspected["session"], explained["session"]);
    assert_eq!(inspected["sequence"], explained["sequence"]);
    let slices = inspected["slices"].as_array().unwrap();
    assert!(slices.iter().any(|slice| slice["crc32c"] == explained["crc32c"]
        && slice["position"] == explained["slice"]["position"]));
    let human = cluster.run(&["explain", "flights", "0", "1234"]).ok();
    let human = String::from_utf8(human.stdout).unwrap();
    assert!(human.contains("written by") && human.contains("lease epoch"), "{human}");
    let beyond = fails(&cluster, &["explain", "flights", "0", "999999999"], 3);
    assert!(beyond.contains("offset 999999999 of flights/0 is out of range"), "{beyond}");
    fails(&cluster, &["explain", "flights", "7", "0"], 3);
}

/// How much is read under the memory limit; `make test-read-memory` reads 10 GiB.
fn mebibytes() -> usize {
    std::env::var("STREAMHOUSE_READ_MIB").map_or(256, |text| text.parse().unwrap())
}

#[test]
fn memory_stays_under_twice_the_limit_whatever_is_read() {
    const LIMIT: u64 = 64 << 20;
    const LINE: usize = 64 << 10;
    let cluster = LocalCluster::start(1, 1);
    cluster.run(&["topic", "create", "wide", "--partitions", "200"]).ok();
    // Small in the store, large in memory: what is read ahead must be bounded by what it becomes.
    let lines = mebibytes() * (1 << 20) / LINE;
    let file = cluster.folder().join("wide.gz");
    let mut gzip = GzEncoder::new(std::fs::File::create(&file).unwrap(), Compression::fast());
    let filler = "streamhouse ".repeat(LINE / 12);
    for number in 0..lines {
        writeln!(gzip, "k{number},{filler}").unwrap();
    }
    gzip.finish().unwrap();
    let file = file.to_str().unwrap();
    cluster.run(&["produce", "wide", "--file", file, "--key-field", "1"]).ok();
    let limit = LIMIT.to_string();
    let read = bench(&cluster, &["--topic", "wide", "--fetch-memory-bytes", &limit]);
    assert_eq!(read["records"], lines);
    let peak = read["peak_memory_bytes"].as_u64().unwrap();
    println!(
        "{} MiB of records in {} MiB of objects, limit {} MiB: peak memory {} MiB",
        read["bytes"].as_u64().unwrap() >> 20,
        read["bytes_fetched"].as_u64().unwrap() >> 20,
        LIMIT >> 20,
        peak >> 20
    );
    assert!(peak < 2 * LIMIT, "{peak} bytes");
}
