//! Tells on stderr which partitions come and go.

use streamhouse_client::TopicPartition;
use streamhouse_client::consumer::RebalanceListener;

use crate::output::say;

pub(super) struct Teller;

fn tell(what: &str, partitions: &[TopicPartition]) {
    let partitions: Vec<_> = partitions.iter().map(ToString::to_string).collect();
    say(format!("{what}: {}", partitions.join(" ")));
}

impl RebalanceListener for Teller {
    fn assigned(&self, partitions: &[TopicPartition]) {
        tell("assigned", partitions);
    }

    fn revoked(&self, partitions: &[TopicPartition]) {
        tell("revoked", partitions);
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        tell("lost", partitions);
    }
}
