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
    /// Acknowledged, an offset beyond it was read, it never was.
    LostWrite = "lost-write",
    /// Acknowledged, nobody had read it after the final drain.
    Unseen = "unseen",
    /// One value at two offsets, of a client that promises one.
    Duplicate = "duplicate",
    /// One offset, two values.
    InconsistentOffsets = "inconsistent-offsets",
    /// A read of a send that certainly failed.
    G1a = "G1a",
    /// Read, but never sent.
    PhantomRead = "phantom-read",
    /// A payload that no process sends, or a slice that is not what the index says.
    CorruptRead = "corrupt-read",
    /// One consumer jumps over known records between polls.
    PollSkip = "poll-skip",
    /// One consumer goes back between polls.
    NonmonotonicPoll = "nonmonotonic-poll",
    /// One poll jumps over known records.
    IntPollSkip = "int-poll-skip",
    /// One poll goes back.
    IntNonmonotonicPoll = "int-nonmonotonic-poll",
    /// A process's acknowledged sends to one partition lie out of order.
    NonmonotonicSend = "nonmonotonic-send",
    /// Acknowledged before its object was in the store, or its commit in the index.
    AckedBeforeDurable = "acked-before-durable",
    /// An entry of an epoch lies behind offsets that were another's when that began.
    StaleEpochCommit = "stale-epoch-commit",
    /// A partition's epoch went back.
    EpochRegression = "epoch-regression",
    /// Two sessions held one epoch of a partition.
    DoubleGrant = "double-grant",
    /// The index leaves offsets out.
    IndexGap = "index-gap",
    /// The index has offsets twice.
    IndexOverlap = "index-overlap",
    /// An object that the index names is not in the store.
    DanglingIndex = "dangling-index",
    /// An object was deleted that the index still names.
    PrematureDelete = "premature-delete",
    /// An object that nothing can refer to outlived the grace.
    OrphanObject = "orphan-object",
    /// A committed offset was followed by a read of an older one.
    OffsetCommitRegression = "offset-commit-regression",
    /// A commit was taken from a member that had lost the partition to another one.
    ZombieOffsetCommit = "zombie-offset-commit",
    /// Committed, yet answered as fenced.
    FalseFenced = "false-fenced",
    /// Two controllers differ at one applied index.
    ReplicaDivergence = "replica-divergence",
    /// No order of one key's operations explains their answers.
    NonlinearizableMeta = "nonlinearizable-meta",
    /// A partition that could not be written or read after healing.
    StuckPartition = "stuck-partition",
    /// Two members of a group read one partition at once.
    DoubleOwnership = "double-ownership",
    /// A group committed past a record that none of its members was handed.
    GroupSkip = "group-skip",
    /// A send of a producer was acknowledged that another one had taken over from.
    ZombieSend = "zombie-send",
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
    /// Keys of the metadata whose operations were too many to decide about: the run proves nothing about them.
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
