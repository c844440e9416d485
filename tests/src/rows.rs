//! The sample of real records.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

/// The sample's file: gzip, with a header line.
pub fn sample_file() -> PathBuf {
    // Asked when it runs: clones may share one target folder.
    let home = std::env::var("CARGO_MANIFEST_DIR");
    let home = home.unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(home).join("../tests/data/flights-sample.csv.gz")
}

/// The sample's rows in their order, without the header.
///
/// # Panics
///
/// If the file cannot be read.
pub fn sample_rows() -> Vec<Vec<u8>> {
    let file = File::open(sample_file()).expect("the sample is part of the repository");
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(file).read_to_end(&mut text).expect("it is gzip");
    let rows = text.split(|byte| *byte == b'\n').skip(1).filter(|row| !row.is_empty());
    rows.map(<[u8]>::to_vec).collect()
}

/// The same rows, sorted.
pub fn sorted(mut rows: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    rows.sort_unstable();
    rows
}
