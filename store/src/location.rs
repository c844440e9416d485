//! Store URLs: what they name, and the one form in which StreamHouse writes them.
//!
//! Agents compare canonical URLs and clients are told them, so two spellings of one place have one form, and
//! nothing secret may stand in one: userinfo and query strings are refused, and no message repeats them.

use std::path::{Component, PathBuf};

use url::Url;

use crate::error::OpenError;

/// What stands behind a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// A folder of this machine.
    File,
    /// A map inside this process.
    Memory,
    /// S3, or what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl StoreKind {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Memory => "memory",
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// A store URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) kind: StoreKind,
    pub(crate) canonical: String,
    /// Bucket, container or name; empty for a folder.
    pub(crate) bucket: String,
    /// Without slashes at its ends; empty for a folder.
    pub(crate) prefix: String,
    /// The folder of a `file://` store.
    pub(crate) folder: Option<PathBuf>,
}

const FORMS: &str =
    "file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or memory://name";

impl Location {
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let refuse = |reason: String| OpenError::Url { url: redact(url), reason };
        if url.trim().is_empty() {
            return Err(refuse(format!("is empty: write {FORMS}")));
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(refuse(format!("has no scheme: write {FORMS}")));
        };
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "file" => StoreKind::File,
            "memory" => StoreKind::Memory,
            "s3" => StoreKind::S3,
            "gs" => StoreKind::Gcs,
            "az" => StoreKind::Azure,
            other => {
                return Err(refuse(format!("has the unknown scheme {other:?}: write {FORMS}")));
            }
        };
        if rest.contains(['?', '#']) {
            return Err(refuse(
                "may not have a query or a fragment: options are given by the environment".into(),
            ));
        }
        match kind {
            StoreKind::File => parse_file(url, rest).map_err(refuse),
            _ => parse_bucket(kind, rest).map_err(refuse),
        }
    }
}

fn parse_file(url: &str, rest: &str) -> Result<Location, String> {
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    let first = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
    if !rest.starts_with('/') || first.starts_with('~') {
        return Err("must hold an absolute path, as in file:///srv/streamhouse ('~' and relative paths are not resolved)".into());
    }
    let path = Url::parse(&format!("file://{rest}"))
        .map_err(|error| format!("is not a URL: {error}"))?
        .to_file_path()
        .map_err(|()| format!("does not name a path of this machine: {url}"))?;
    // `components` also drops doubled and trailing slashes.
    let folder: PathBuf = path.components().collect();
    if !folder.components().any(|part| matches!(part, Component::Normal(_))) {
        return Err("names the root of the file system: give the store a folder of its own".into());
    }
    let canonical = Url::from_file_path(&folder)
        .map_err(|()| format!("does not name a path of this machine: {url}"))?
        .to_string();
    Ok(Location {
        kind: StoreKind::File,
        canonical,
        bucket: String::new(),
        prefix: String::new(),
        folder: Some(folder),
    })
}

fn parse_bucket(kind: StoreKind, rest: &str) -> Result<Location, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        return Err(
            "may not hold a user name or a key: credentials are given by the environment".into()
        );
    }
    if bucket.is_empty() {
        return Err(format!("names no bucket: write {FORMS}"));
    }
    if bucket.contains(':') {
        return Err(
            "has a port: name the bucket here, and the endpoint by the environment (AWS_ENDPOINT)"
                .into(),
        );
    }
    if !bucket.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Err(format!("has a bucket name that no store allows: {bucket:?}"));
    }
    let prefix: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
    let prefix = prefix.join("/");
    if !prefix.is_empty() {
        check_key(&prefix).map_err(|reason| format!("has a prefix that {reason}"))?;
    }
    let slash = if prefix.is_empty() { "" } else { "/" };
    Ok(Location {
        kind,
        canonical: format!("{}://{bucket}{slash}{prefix}", kind.scheme()),
        bucket: bucket.to_owned(),
        prefix,
        folder: None,
    })
}

/// Keys are what every store takes as it is: segments of plain ASCII joined by `/`.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    /// S3, GCS and Azure all end at 1,024 bytes; what StreamHouse makes is far shorter.
    const LONGEST: usize = 900;
    if key.is_empty() {
        return Err("is empty".into());
    }
    if key.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    for part in key.split('/') {
        match part {
            "" => return Err("has an empty segment".into()),
            "." | ".." => return Err(format!("has the segment {part:?}")),
            _ => {}
        }
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.=+,@:!".contains(c);
    match key.chars().find(|c| !plain(*c)) {
        Some(c) => Err(format!("holds the character {c:?}")),
        None => Ok(()),
    }
}

/// The URL as it may stand in a message: without userinfo and query.
pub(crate) fn redact(url: &str) -> String {
    let (base, query) = match url.find(['?', '#']) {
        Some(at) => (&url[..at], "?…"),
        None => (url, ""),
    };
    let (scheme, rest) = match base.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), base),
    };
    // A secret key may hold slashes: everything up to the last '@' may be userinfo.
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}…@{host}{query}"),
        None => format!("{scheme}{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(url: &str) -> String {
        Location::parse(url).expect(url).canonical
    }

    fn refusal(url: &str) -> String {
        Location::parse(url).expect_err(url).to_string()
    }

    #[test]
    fn two_spellings_of_one_place_have_one_form() {
        assert_eq!(canonical("s3://bucket"), "s3://bucket");
        assert_eq!(canonical("S3://bucket//a//b/"), "s3://bucket/a/b");
        assert_eq!(canonical("gs://bucket/a"), "gs://bucket/a");
        assert_eq!(canonical("az://container/a/"), "az://container/a");
        assert_eq!(canonical("memory://one"), "memory://one");
        assert_eq!(canonical("file:///srv//streamhouse/"), "file:///srv/streamhouse");
        assert_eq!(canonical("file://localhost/srv/x/../streamhouse"), "file:///srv/streamhouse");
        assert_eq!(canonical("file:///srv/my%20log"), canonical("file:///srv/my log"));
    }

    #[test]
    fn a_url_that_names_no_store_is_refused_by_name() {
        assert!(refusal("").contains("is empty"));
        assert!(refusal("/srv/x").contains("\"/srv/x\": has no scheme"));
        assert!(refusal("ftp://host/x").contains("unknown scheme \"ftp\""));
        assert!(refusal("file://srv/x").contains("absolute path"));
        assert!(refusal("file://~/x").contains("'~'"));
        assert!(refusal("file:///~/x").contains("'~'"));
        assert!(refusal("file://./x").contains("absolute path"));
        assert!(refusal("file:///").contains("root of the file system"));
        assert!(refusal("file:///a/../..").contains("root of the file system"));
        assert!(refusal("s3://").contains("names no bucket"));
        assert!(refusal("s3:///prefix").contains("names no bucket"));
        assert!(refusal("s3://localhost:9000/bucket").contains("AWS_ENDPOINT"));
        assert!(refusal("s3://bucket/a/../b").contains("\"..\""));
        assert!(refusal("s3://bucket/a#1").contains("fragment"));
        assert!(refusal("s3://bucket/a b").contains("' '"));
    }

    #[test]
    fn a_message_never_repeats_credentials() {
        for url in ["s3://AKIA:se/cret@bucket/x", "az://c/x?sig=secret", "ftp://u:secret@h/"] {
            let message = refusal(url);
            assert!(!message.contains("cret"), "{message}");
        }
    }

    #[test]
    fn keys_are_plain_segments() {
        assert!(check_key("c/l0/ab/1-2/00000000000000000007").is_ok());
        for key in ["", "/a", "a/", "a//b", "../a", "a/./b", "a#1", "a%20b", "ä", "a\nb"] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        assert!(check_key(&"a".repeat(901)).is_err());
    }
}
