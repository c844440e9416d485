//! What may catch a planted mistake: the anomalies and violations that it must lead to. A seed that fails by another
//! one has not understood it.

use streamhouse_host::Mistake;

/// Names of violations; those with a colon are the name and how the detail begins.
pub(crate) fn catches(mistake: Mistake) -> &'static [&'static str] {
    match mistake {
        // The note beside the log says that it was longer, or what was acknowledged with it is gone.
        Mistake::LogNotSynced => &[
            "death: k1 does not start",
            "death: k2 does not start",
            "death: k3 does not start",
            "PURE",
            "ACK",
            "lost-write",
            "unseen",
            "replica-divergence",
        ],
        Mistake::AppliedMarkerFirst | Mistake::ApplyReadsClock | Mistake::HashMapOrder => {
            &["PURE", "replica-divergence"]
        }
        Mistake::StaleLinearizableRead => &[
            "nonlinearizable-meta",
            "offset-commit-regression",
            "epoch-regression",
            "watermark-regression",
        ],
        // What is used expires, or what is not used never does.
        Mistake::ExpiryByWallClock => &[
            "orphan-object",
            "nonlinearizable-meta",
            "offset-commit-regression",
            "premature-delete",
        ],
        Mistake::RetryNotRemembered => {
            &["nonlinearizable-meta", "offset-commit-regression", "GROUP"]
        }
        Mistake::NoEpochCheck => &["FENCE", "stale-epoch-commit"],
        Mistake::NoOffsetCheck => &["DENSE", "index-gap", "index-overlap", "inconsistent-offsets"],
        Mistake::FenceBeforeDuplicate | Mistake::LostAnswerTakenForFailure => {
            &["G1a", "false-fenced", "duplicate"]
        }
        Mistake::EpochNotRaisedOnRefusal => &["stuck-partition", "late: writable"],
        Mistake::GrantWithoutEpoch => &["FENCE", "double-grant"],
        Mistake::AckBeforeCommit => {
            &["acked-before-durable", "inconsistent-offsets", "lost-write", "unseen"]
        }
        Mistake::ExistsTakenForStored => {
            &["dangling-index", "acked-before-durable", "lost-write", "unseen"]
        }
        Mistake::DuplicateOffByOne => &["duplicate"],
        // What was never written counts as a duplicate of itself.
        Mistake::ProducerStateEarly => {
            &["acked-before-durable", "inconsistent-offsets", "nonmonotonic-send", "lost-write"]
        }
        Mistake::ProducerEpochIgnored => &["zombie-send"],
        Mistake::DoubtTakenForFailure => &["G1a"],
        Mistake::CollectorByAge => &["premature-delete", "dangling-index"],
        Mistake::ReaderSkipsMissing => &["poll-skip", "int-poll-skip", "group-skip"],
        // Records, or their places, are others.
        Mistake::ChecksumNotChecked => &[
            "corrupt-read",
            "phantom-read",
            "duplicate",
            "inconsistent-offsets",
            "poll-skip",
            "int-poll-skip",
            "nonmonotonic-poll",
            "int-nonmonotonic-poll",
            "group-skip",
        ],
        Mistake::StaleReadPlan => &["nonmonotonic-poll", "int-nonmonotonic-poll"],
        Mistake::AutoCommitAhead => &["group-skip"],
        Mistake::ZombieCommit => &["GROUP", "zombie-offset-commit", "offset-commit-regression"],
        Mistake::PartitionGrantedTwice | Mistake::DeposedLeaderHeartbeat => {
            &["double-ownership", "zombie-offset-commit"]
        }
    }
}

/// Whether a violation is one of these.
pub(crate) fn is_among(catches: &[&str], name: &str, detail: &str) -> bool {
    let whole = format!("{name}: {detail}");
    catches.iter().any(|one| *one == name || (one.contains(':') && whole.starts_with(one)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::LOOKED_AT;
    use streamhouse_chaos::AnomalyKind;

    #[test]
    fn what_catches_is_a_name_that_something_can_have() {
        for one in Mistake::ALL.iter().flat_map(|mistake| catches(*mistake)) {
            let name = one.split(':').next().unwrap();
            let anomaly = AnomalyKind::ALL.iter().any(|kind| kind.name() == name);
            assert!(
                anomaly || LOOKED_AT.contains(&name) || ["death", "late"].contains(&name),
                "{one}"
            );
        }
    }

    #[test]
    fn a_violation_of_the_same_name_and_another_detail_catches_nothing() {
        let catches = ["late: writable", "G1a"];
        assert!(is_among(&catches, "late", "writable: 0/1 was not written after healing"));
        assert!(is_among(&catches, "G1a", "anything"));
        assert!(!is_among(&catches, "late", "groups: not after 60s: group-0 has 1 of 2"));
    }
}
