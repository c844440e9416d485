//! What can be wrong with a history, by name, and the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

/// BOUND: anomalies of one kind that are told in full; the rest are counted.
const TOLD: usize = 100;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// Names of anomalies, as reports show them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum AnomalyKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)*
        }

        impl AnomalyKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }
        }
    };
}

kinds! {
    /// A record that was acknowledged, or read by anybody, is not in the final drain, which read an offset beyond it.
    LostWrite = "lost-write",
    /// A record that was acknowledged, or read by anybody, lies where the final drain did not get to.
    Unseen = "unseen",
    /// One value was read at two offsets, of a client that promises one; or of one that does not, more often than it
    /// knows of.
    Duplicate = "duplicate",
    /// One offset has two values: in two reads, in a read and an acknowledgement, or in two acknowledgements.
    InconsistentOffsets = "inconsistent-offsets",
    /// A read of a send that certainly failed.
    G1a = "G1a",
    /// A read of what nobody had sent when it returned, or had sent to another partition.
    PhantomRead = "phantom-read",
    /// A payload that no process sends, a slice that is not what the index says, or a consumer that says so while
    /// nothing does that to reads.
    CorruptRead = "corrupt-read",
    /// One consumer jumps over a record that somebody has read, between two polls or from where it has sought.
    PollSkip = "poll-skip",
    /// One consumer goes back between two polls, without having sought or been given the partition anew.
    NonmonotonicPoll = "nonmonotonic-poll",
    /// The same as `poll-skip` inside one poll.
    IntPollSkip = "int-poll-skip",
    /// The same as `nonmonotonic-poll` inside one poll.
    IntNonmonotonicPoll = "int-nonmonotonic-poll",
    /// A client's acknowledged sends to one partition lie out of order, under whatever number of its process, or any
    /// that one process sent and that were read; of a client that may repeat records, the first appearances of
    /// acknowledged ones do.
    NonmonotonicSend = "nonmonotonic-send",
    /// Acknowledged before its object was in the store, or in no entry of the final index.
    AckedBeforeDurable = "acked-before-durable",
    /// An entry of an epoch lies at or behind the watermark at which a later epoch was seen.
    StaleEpochCommit = "stale-epoch-commit",
    /// A read of a partition's lease that began after another one had returned, whoever made it, shows an earlier
    /// epoch; or the epochs of the index go back.
    EpochRegression = "epoch-regression",
    /// Two sessions held one epoch of a partition, by reads of whomever or by entries of the index.
    DoubleGrant = "double-grant",
    /// The index leaves offsets out, or a log no longer begins at 0, though topics of a trial have no retention and
    /// nobody deletes records; or a consumer says so.
    IndexGap = "index-gap",
    /// The index has offsets twice.
    IndexOverlap = "index-overlap",
    /// An object that the index names is not in the store, or a consumer says so.
    DanglingIndex = "dangling-index",
    /// An object was deleted that the index names in the end.
    PrematureDelete = "premature-delete",
    /// An object that nothing can refer to outlived the grace.
    OrphanObject = "orphan-object",
    /// A fetch that began after an offset was committed, or shown to be, whoever heard so, shows an earlier one or
    /// none; or a commit that began after it was taken, of an earlier one; or a member that got the partition after it
    /// was handed earlier records first.
    OffsetCommitRegression = "offset-commit-regression",
    /// A commit was taken from a member, though another one had used the partition since, or had got it later and
    /// committed it, and the member had not got it anew.
    ZombieOffsetCommit = "zombie-offset-commit",
    /// A read of a send that was told it was fenced.
    FalseFenced = "false-fenced",
    /// Two controllers differ at one applied index.
    ReplicaDivergence = "replica-divergence",
    /// No order of one key's operations, within the times at which they were under way, explains their answers; or two
    /// keys have one value that the cluster chose.
    NonlinearizableMeta = "nonlinearizable-meta",
    /// A partition that could not be written or read after healing, or of which nobody knows.
    StuckPartition = "stuck-partition",
    /// A member of a group was handed records of a partition that is not its own, or that another one had used between
    /// two uses by it.
    DoubleOwnership = "double-ownership",
    /// A group committed past a record that none of its members was handed, or past the end of the log; or a member
    /// that got the partition was handed records past one first, though nobody had asked to commit that it was read.
    GroupSkip = "group-skip",
    /// A send was acknowledged that began after another producer had taken over.
    ZombieSend = "zombie-send",
    /// A read that began after another one had returned, whoever made it, shows an earlier high watermark or log start;
    /// or a high watermark not past what had been acknowledged or read by then; or the log ends before a record that
    /// was read.
    WatermarkRegression = "watermark-regression",
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One anomaly, with what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    /// Its name.
    pub kind: AnomalyKind,
    /// The proof in words.
    pub detail: String,
    /// Positions in the history, from 0, of the operations that prove it.
    pub events: Vec<usize>,
}

/// The verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Sends acknowledged.
    pub acknowledged: u64,
    /// Records read.
    pub reads: u64,
    /// Values at a second offset, written by clients that may.
    pub allowed_duplicates: u64,
    /// How many anomalies of each kind.
    pub counts: BTreeMap<AnomalyKind, u64>,
    /// The first hundred of each kind.
    pub anomalies: Vec<Anomaly>,
    /// Why the history proves nothing, or not all: keys of the metadata whose operations were too many to decide about,
    /// and lines that cannot be. With any of these a history has not passed.
    pub undecided: Vec<String>,
}

impl Report {
    /// The kinds found, each once.
    pub fn kinds(&self) -> BTreeSet<AnomalyKind> {
        self.counts.keys().copied().collect()
    }

    pub(super) fn found(&mut self, kind: AnomalyKind, detail: String, events: Vec<usize>) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= TOLD as u64 {
            self.anomalies.push(Anomaly { kind, detail, events });
        }
    }
}
