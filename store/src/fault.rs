//! Reduces an `object_store` error to what StreamHouse decides by, and to one line that a person can read.
//!
//! `object_store` maps a few HTTP answers to variants of its own and boxes the rest; its request error is not
//! nameable outside the crate. So the chain of sources is walked: an [`HttpError`] says how a request without
//! an answer ended, an [`io::Error`] what the disk said, and the status of any other answer is read from the
//! request error's text ([`STATUS_TEXT`]; `tests/faults.rs` holds that text to real answers).

use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{GetError, PutError};

/// How `object_store` words an answer that is no success: this, the status line, `: `, the body.
const STATUS_TEXT: &str = "Server returned non-2xx status code: ";

/// How it words S3's answer to a request sent to the wrong region.
const REDIRECT_TEXT: &str = "Received redirect without LOCATION";

/// The longest cause kept: an HTML page of a proxy helps nobody.
const CAUSE_CHARS: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    NotFound,
    Exists,
    /// No connection: the request cannot have arrived.
    Unreachable,
    /// The request may have arrived.
    Interrupted,
    Throttled,
    Denied,
    Full,
    ReadOnly,
    /// The disk, or the folder's shape.
    Disk,
    /// A range that lies outside the object.
    OutOfRange,
    /// Understood and refused.
    Refused,
    /// An answer that means nothing to us; the request may have had its effect.
    Unclear,
}

#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) cause: String,
}

impl Fault {
    fn new(kind: FaultKind, cause: impl AsRef<str>) -> Self {
        Self { kind, cause: shorten(cause.as_ref()) }
    }

    pub(crate) fn of(error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let inner = innermost(error);
        match error {
            E::NotFound { .. } => Self::new(FaultKind::NotFound, status_cause(inner)),
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
                Self::new(FaultKind::Exists, status_cause(inner))
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Self::new(FaultKind::Denied, status_cause(inner))
            }
            E::JoinError { .. } => Self::new(FaultKind::Interrupted, inner.to_string()),
            E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::UnknownConfigurationKey { .. } => Self::refused(lower_first(&error.to_string())),
            _ => Self::of_chain(error),
        }
    }

    /// An error without a variant of its own: the first link of the chain that tells something decides.
    fn of_chain(error: &(dyn StdError + 'static)) -> Self {
        let mut link = Some(error);
        while let Some(current) = link {
            if let Some(http) = current.downcast_ref::<HttpError>() {
                return Self::of_transport(http);
            }
            if let Some(disk) = current.downcast_ref::<io::Error>() {
                return Self::new(io_kind(disk), describe_disk(error, disk));
            }
            let text = current.to_string();
            if let Some(answer) = text.strip_prefix(STATUS_TEXT) {
                return Self::of_status(answer);
            }
            if text.starts_with(REDIRECT_TEXT) {
                return Self::refused(lower_first(&text));
            }
            link = current.source();
        }
        Self::new(FaultKind::Unclear, lower_first(&innermost(error).to_string()))
    }

    fn of_transport(error: &HttpError) -> Self {
        let kind = match error.kind() {
            HttpErrorKind::Connect => FaultKind::Unreachable,
            // Also `Request`: it covers a connection that closed before the answer was complete.
            _ => FaultKind::Interrupted,
        };
        Self::new(kind, innermost(error).to_string())
    }

    /// `answer` is `503 Service Unavailable: <body>`.
    fn of_status(answer: &str) -> Self {
        let status: u16 = answer.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
        let kind = match status {
            401 | 403 => FaultKind::Denied,
            // S3 says so of a request whose body came too slowly, or whose credentials have run out.
            400 if answer.contains("RequestTimeout") => FaultKind::Interrupted,
            400 if answer.contains("ExpiredToken") => FaultKind::Denied,
            416 => FaultKind::OutOfRange,
            429 | 503 => FaultKind::Throttled,
            408 | 500 | 502 | 504..=599 => FaultKind::Interrupted,
            // 501 is a store that does not know If-None-Match.
            _ => FaultKind::Refused,
        };
        Self::new(kind, describe_answer(answer))
    }

    pub(crate) fn of_io(error: &io::Error) -> Self {
        Self::new(io_kind(error), error.to_string())
    }

    pub(crate) fn refused(cause: impl AsRef<str>) -> Self {
        Self::new(FaultKind::Refused, cause)
    }

    /// The write was not begun.
    pub(crate) fn unreachable(cause: impl AsRef<str>) -> Self {
        Self::new(FaultKind::Unreachable, cause)
    }

    /// The write may have been done.
    pub(crate) fn interrupted(cause: impl AsRef<str>) -> Self {
        Self::new(FaultKind::Interrupted, cause)
    }

    pub(crate) fn into_put(self, store: &str, key: &str) -> PutError {
        let (store, key, cause) = (store.to_owned(), key.to_owned(), self.cause);
        match self.kind {
            FaultKind::Unreachable => PutError::Unavailable { store, key, cause },
            // An unclear answer may be a success without an ETag.
            FaultKind::Interrupted | FaultKind::Unclear => {
                PutError::Ambiguous { store, key, cause }
            }
            FaultKind::Throttled => PutError::Throttled { store, key, cause },
            FaultKind::Denied => PutError::Denied { store, key, cause },
            FaultKind::Full => PutError::Full { store, key, cause },
            FaultKind::ReadOnly => PutError::ReadOnly { store, key, cause },
            FaultKind::Disk => PutError::Fatal { store, key, cause },
            // A write answered "not found" has no bucket to go to.
            FaultKind::NotFound
            | FaultKind::Exists
            | FaultKind::OutOfRange
            | FaultKind::Refused => PutError::Invalid { store, key, cause },
        }
    }

    pub(crate) fn into_get(self, store: &str, key: &str) -> GetError {
        let (store, key, cause) = (store.to_owned(), key.to_owned(), self.cause);
        match self.kind {
            FaultKind::NotFound => GetError::NotFound { store, key },
            FaultKind::Unreachable | FaultKind::Interrupted => {
                GetError::Unavailable { store, key, cause }
            }
            FaultKind::Throttled => GetError::Throttled { store, key, cause },
            FaultKind::Denied | FaultKind::ReadOnly => GetError::Denied { store, key, cause },
            FaultKind::Exists
            | FaultKind::Full
            | FaultKind::Disk
            | FaultKind::OutOfRange
            | FaultKind::Refused
            | FaultKind::Unclear => GetError::Other { store, key, cause },
        }
    }
}

fn io_kind(error: &io::Error) -> FaultKind {
    use io::ErrorKind as K;
    /// ENFILE and EMFILE have no stable `ErrorKind`.
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    match error.kind() {
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => FaultKind::Full,
        K::PermissionDenied | K::ReadOnlyFilesystem => FaultKind::ReadOnly,
        K::TimedOut | K::Interrupted | K::OutOfMemory | K::ResourceBusy => FaultKind::Interrupted,
        _ if error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code)) => {
            FaultKind::Interrupted
        }
        _ => FaultKind::Disk,
    }
}

/// The last error of the chain: the one with the reason ("Connection refused"), not the ones with the wrapping.
fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current
}

/// `object_store`'s own words for a disk error, because they name the file.
fn describe_disk(error: &(dyn StdError + 'static), disk: &io::Error) -> String {
    let mut link = Some(error);
    while let Some(current) = link {
        match current.source() {
            Some(next) if next.is::<io::Error>() => return lower_first(&current.to_string()),
            next => link = next,
        }
    }
    disk.to_string()
}

fn status_cause(error: &(dyn StdError + 'static)) -> String {
    let text = error.to_string();
    match text.strip_prefix(STATUS_TEXT) {
        Some(answer) => describe_answer(answer),
        None => text,
    }
}

/// `403 Forbidden (AccessDenied: Access Denied)` out of a status line and an S3, GCS or Azure XML body.
fn describe_answer(answer: &str) -> String {
    let (status, body) = answer.split_once(": ").unwrap_or((answer, ""));
    match (element(body, "Code"), element(body, "Message")) {
        (Some(code), Some(message)) => format!("{status} ({code}: {message})"),
        (Some(code), None) => format!("{status} ({code})"),
        _ if body.trim().is_empty() => status.to_owned(),
        _ => format!("{status} ({})", body.trim()),
    }
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

fn shorten(cause: &str) -> String {
    match cause.char_indices().nth(CAUSE_CHARS) {
        Some((end, _)) => format!("{}…", &cause[..end]),
        None => cause.to_owned(),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_reduced_to_its_status_code_and_message() {
        let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce.</Message></Error>";
        assert_eq!(
            describe_answer(&format!("503 Service Unavailable: {body}")),
            "503 Service Unavailable (SlowDown: Please reduce.)"
        );
        assert_eq!(describe_answer("502 Bad Gateway: "), "502 Bad Gateway");
    }

    #[test]
    fn each_status_says_whether_the_request_may_have_happened() {
        let cases = [
            ("400 Bad Request: <Code>RequestTimeout</Code>", FaultKind::Interrupted),
            ("400 Bad Request: <Code>InvalidArgument</Code>", FaultKind::Refused),
            ("429 Too Many Requests: ", FaultKind::Throttled),
            ("503 Service Unavailable: ", FaultKind::Throttled),
            ("500 Internal Server Error: ", FaultKind::Interrupted),
            ("501 Not Implemented: ", FaultKind::Refused),
            ("504 Gateway Timeout: ", FaultKind::Interrupted),
            ("416 Range Not Satisfiable: ", FaultKind::OutOfRange),
        ];
        for (answer, kind) in cases {
            assert_eq!(Fault::of_status(answer).kind, kind, "{answer}");
        }
    }

    #[test]
    fn a_long_cause_is_cut() {
        assert_eq!(Fault::refused("ä".repeat(5_000)).cause.chars().count(), CAUSE_CHARS + 1);
    }
}
