//! How the program ends: exit codes, and errors as one line on stderr.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use streamhouse_agent::StartError;
use streamhouse_chaos::AuditError;
use streamhouse_client::consumer::ConsumeError;
use streamhouse_client::producer::{FlushError, ProduceError};
use streamhouse_client::{AdminError, CallError, Code, Refusal};
use streamhouse_store::OpenError;

use crate::controllers;

/// The end of `--help`.
pub(crate) const HELP: &str = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 the thing named does not exist or exists \
already, 4 the cluster could not be reached or gave no answer (a retry may help), 5 damaged data; of chaos run and chaos check: 6 something is not as it must be, 7 it proves \
nothing, 8 the run could not be held to its end, or its history cannot be read.";

/// An error longer than this is shortened in the middle: both ends say what matters.
const MAX_MESSAGE_CHARS: usize = 600;

/// The kinds of failure that an exit code tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed = 1,
    Usage = 2,
    Name = 3,
    Unavailable = 4,
    Damaged = 5,
    /// A controller's, with the code that it ends with while it runs, too.
    TooOld = 79,
    /// A trial found something.
    Found = 6,
    /// A trial found nothing, and could have found nothing.
    Invalid = 7,
    /// A trial could not be held to its end, or its history cannot be read.
    Harness = 8,
}

/// A failure whose kind is known where it is made.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    #[cfg(test)]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// Nobody reads our stdout any more (`| head`): the end of the work, and no failure.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout was closed")
    }
}

impl Error for StdoutClosed {}

/// Marks the one error of stdout that is no failure.
pub(crate) fn stdout_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        StdoutClosed.into()
    } else {
        anyhow::Error::from(error).context("stdout")
    }
}

/// What a command ends with that prints what it found and fails by it: the verdict is the same whether anybody reads
/// it.
pub(crate) fn after_printing(
    printed: anyhow::Result<()>,
    verdict: anyhow::Result<()>,
) -> anyhow::Result<()> {
    verdict.and(printed)
}

/// What a status ends with once it is printed: a script sees by the exit code alone that nothing can be decided.
pub(crate) fn led(leader: Option<u64>) -> anyhow::Result<()> {
    let message = "no controller leads with a majority behind it just now";
    leader.map(drop).ok_or_else(|| Failure::new(Kind::Unavailable, message).into())
}

/// Says what went wrong, if anything, and with which code to exit.
pub(crate) fn report(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.is::<StdoutClosed>() {
        return ExitCode::SUCCESS;
    }
    complain(&one_line(&format!("{}{}", chain(&error), hint(&error))));
    ExitCode::from(kind(&error) as u8)
}

/// What to try, where that is known.
fn hint(error: &anyhow::Error) -> &'static str {
    let unreachable = error.chain().find_map(|cause| match call_of(cause) {
        Some(CallError::Unreachable { tried, .. }) => Some(tried),
        _ => None,
    });
    match unreachable.is_some_and(|tried| controllers::are_default(tried)) {
        true => "; --controllers names others, `streamhouse up` starts these",
        false => "",
    }
}

/// The call to the controllers that failed, if that is what it is about.
fn call_of<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a CallError> {
    if let Some(AdminError::Call(error)) = cause.downcast_ref() {
        return Some(error);
    }
    if let Some(ConsumeError::Call(error) | ConsumeError::Commit { error, .. }) =
        cause.downcast_ref()
    {
        return Some(error);
    }
    if let Some(ProduceError::Metadata { error, .. } | ProduceError::NoProducerId { error }) =
        cause.downcast_ref()
    {
        return Some(error);
    }
    cause.downcast_ref()
}

/// Ends a command line that could not be understood, or that asked for help.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    use ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand as HelpOnMissing, DisplayVersion,
    };
    if matches!(error.kind(), DisplayHelp | DisplayVersion | HelpOnMissing) {
        // A closed stdout is nobody's failure here either.
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { Kind::Usage as u8 } else { 0 });
    }
    complain(&usage_line(error));
    ExitCode::from(Kind::Usage as u8)
}

/// The first paragraph of clap's message, and the suggestions it may have.
fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraph: Vec<&str> =
        text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let mut line = paragraph.join(" ");
    for kind in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
        if let Some(suggestion) = error.get(kind) {
            line.push_str(&format!("; did you mean {suggestion}?"));
        }
    }
    one_line(&format!("{line} (see --help)"))
}

fn complain(line: &str) {
    // Where stderr is closed too, there is nobody left to tell.
    let _ = writeln!(io::stderr(), "error: {line}");
}

/// The whole chain, outermost first, without repeating what a message already ends with.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// One line without control characters and of bounded length.
fn one_line(text: &str) -> String {
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let length = text.chars().count();
    if length <= MAX_MESSAGE_CHARS {
        return text;
    }
    let half = MAX_MESSAGE_CHARS / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(length - half).collect();
    format!("{head} … {tail}")
}

fn kind(error: &anyhow::Error) -> Kind {
    error.chain().find_map(kind_of).unwrap_or(Kind::Failed)
}

fn kind_of(cause: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.kind);
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return (error.kind() == io::ErrorKind::NotFound).then_some(Kind::Name);
    }
    if let Some(error) = cause.downcast_ref::<CallError>() {
        return Some(call_kind(error));
    }
    if let Some(error) = cause.downcast_ref::<AdminError>() {
        return Some(admin_kind(error));
    }
    if let Some(error) = cause.downcast_ref::<ProduceError>() {
        return Some(produce_kind(error));
    }
    if let Some(error) = cause.downcast_ref::<ConsumeError>() {
        return Some(consume_kind(error));
    }
    if let Some(error) = cause.downcast_ref::<AuditError>() {
        return audit_kind(error);
    }
    if let Some(StartError::Open(error)) = cause.downcast_ref() {
        return Some(open_kind(error));
    }
    if let Some(error) = cause.downcast_ref::<OpenError>() {
        return Some(open_kind(error));
    }
    cause.downcast_ref::<FlushError>().map(|error| produce_kind(&error.first))
}

fn call_kind(error: &CallError) -> Kind {
    match error {
        CallError::Unreachable { .. } | CallError::TimedOut { .. } => Kind::Unavailable,
        CallError::Refused(refusal) => refusal_kind(refusal),
    }
}

fn refusal_kind(refusal: &Refusal) -> Kind {
    match refusal.code {
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::TopicExists
        | Code::UnknownController => Kind::Name,
        code if code.retryable() => Kind::Unavailable,
        _ => Kind::Failed,
    }
}

fn admin_kind(error: &AdminError) -> Kind {
    match error {
        AdminError::Config(_) | AdminError::Invalid { .. } => Kind::Usage,
        AdminError::TopicExists { .. }
        | AdminError::UnknownTopic { .. }
        | AdminError::UnknownGroup { .. } => Kind::Name,
        AdminError::GroupNotEmpty { .. } => Kind::Failed,
        AdminError::Call(error) => call_kind(error),
    }
}

fn audit_kind(error: &AuditError) -> Option<Kind> {
    match error {
        AuditError::Admin(error) => Some(admin_kind(error)),
        AuditError::Index { retryable, .. } => retryable.then_some(Kind::Unavailable),
        AuditError::Store(error) => error.can_retry().then_some(Kind::Unavailable),
        AuditError::GaveUp { .. } => Some(Kind::Unavailable),
    }
}

fn open_kind(error: &OpenError) -> Kind {
    match error {
        OpenError::Url { .. } | OpenError::Options { .. } => Kind::Usage,
        OpenError::Folder { .. } => Kind::Failed,
    }
}

fn produce_kind(error: &ProduceError) -> Kind {
    match error {
        ProduceError::Config(_) => Kind::Usage,
        ProduceError::UnknownTopic { .. } | ProduceError::UnknownPartition { .. } => Kind::Name,
        ProduceError::Metadata { error, .. } | ProduceError::NoProducerId { error } => {
            call_kind(error)
        }
        ProduceError::TimedOut { .. } => Kind::Unavailable,
        ProduceError::Refused { refusal, .. } => refusal_kind(refusal),
        ProduceError::RecordTooLarge { .. }
        | ProduceError::BufferFull { .. }
        | ProduceError::TopicNotLoaded { .. }
        | ProduceError::Fenced { .. }
        | ProduceError::Closed { .. } => Kind::Failed,
    }
}

fn consume_kind(error: &ConsumeError) -> Kind {
    match error {
        ConsumeError::Config(_) | ConsumeError::NotSubscribed => Kind::Usage,
        ConsumeError::UnknownTopic { .. }
        | ConsumeError::TopicDeleted { .. }
        | ConsumeError::UnknownPartition { .. }
        | ConsumeError::OffsetOutOfRange { .. } => Kind::Name,
        ConsumeError::MissingObject { .. }
        | ConsumeError::Corrupt { .. }
        | ConsumeError::IndexGap { .. } => Kind::Damaged,
        ConsumeError::LookUp { refusal, .. } | ConsumeError::CommitRefused { refusal, .. } => {
            refusal_kind(refusal)
        }
        ConsumeError::Call(error) | ConsumeError::Commit { error, .. } => call_kind(error),
        ConsumeError::CommittedInPart { error, .. } => consume_kind(error),
        ConsumeError::Store { error, .. } if error.can_retry() => Kind::Unavailable,
        ConsumeError::Store { .. }
        | ConsumeError::NotAssigned { .. }
        | ConsumeError::NoOffset { .. }
        | ConsumeError::StoreNotOpen { .. }
        | ConsumeError::NoGroup
        | ConsumeError::CommitsWaiting { .. }
        | ConsumeError::FencedMember { .. }
        | ConsumeError::ReplacedMember { .. }
        | ConsumeError::Cache(_)
        | ConsumeError::Ended => Kind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_is_one_line_of_bounded_length() {
        assert_eq!(one_line("two\nlines\t\u{1b}[31m\n"), "two lines  [31m");
        let long = format!("topic '{}' is too long", "x".repeat(10_000));
        let line = one_line(&long);
        assert!(line.chars().count() < MAX_MESSAGE_CHARS + 10);
        assert!(line.starts_with("topic 'xxx") && line.ends_with("is too long"));
    }

    #[test]
    fn causes_are_told_once() {
        let cause = Failure::usage("no such file");
        assert_eq!(
            chain(&anyhow::Error::from(cause).context("file a.csv")),
            "file a.csv: no such file"
        );
        let repeated = Err::<(), _>(Failure::usage("deep")).context("outer: deep").unwrap_err();
        assert_eq!(chain(&repeated), "outer: deep");
    }

    #[test]
    fn who_named_no_controllers_is_told_how() {
        let unreachable = |tried: &[String]| {
            let error = CallError::Unreachable { tried: tried.to_vec(), last: String::new() };
            anyhow::Error::from(AdminError::Call(error)).context("topics")
        };
        let local: Vec<String> = (1..=3).map(|n| format!("127.0.0.1:760{n}")).collect();
        assert!(hint(&unreachable(&local)).contains("--controllers"));
        assert_eq!(hint(&unreachable(&local[..1])), "");
        assert_eq!(hint(&anyhow::anyhow!("anything")), "");
    }

    #[test]
    fn a_verdict_is_the_same_whether_anybody_reads_it() {
        let closed = || Err(stdout_error(io::ErrorKind::BrokenPipe.into()));
        let full = || Err(stdout_error(io::ErrorKind::StorageFull.into()));
        let found = || Err(Failure::new(Kind::Found, "found").into());
        for printed in [Ok(()), closed(), full()] {
            let error = after_printing(printed, found()).unwrap_err();
            assert_eq!(kind(&error), Kind::Found);
            assert!(!error.is::<StdoutClosed>());
        }
        // That nobody listens is no failure, and that it could not be written is.
        assert!(after_printing(closed(), Ok(())).unwrap_err().is::<StdoutClosed>());
        assert_eq!(kind(&after_printing(full(), Ok(())).unwrap_err()), Kind::Failed);
        assert!(after_printing(Ok(()), Ok(())).is_ok());
    }

    #[test]
    fn a_kind_is_found_under_its_context() {
        let error = anyhow::Error::from(Failure::new(Kind::Damaged, "bad")).context("object x");
        assert_eq!(kind(&error), Kind::Damaged);
        let unreachable = CallError::Unreachable { tried: vec![], last: String::new() };
        assert_eq!(kind(&anyhow::Error::from(unreachable).context("status")), Kind::Unavailable);
        assert_eq!(kind(&anyhow::anyhow!("anything")), Kind::Failed);
    }
}
