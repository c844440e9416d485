//! Old requests that come once more.

use async_trait::async_trait;

use super::{Fault, Healed};
use crate::cluster::{Cluster, Replayed};
use crate::error::ChaosError;
use crate::random::Random;

/// More than a greeting: requests were answered.
const ANSWER: usize = 200;

#[derive(Default)]
pub(super) struct Replay {
    came_to: Replayed,
}

#[async_trait]
impl Fault for Replay {
    async fn install(
        &mut self,
        cluster: &mut Cluster,
        _: &mut Random,
    ) -> Result<String, ChaosError> {
        self.came_to = cluster.tape().replay().await;
        let Replayed { connections, said, answered } = self.came_to;
        Ok(format!("{connections} connections of agents, {said} bytes, answered by {answered}"))
    }

    async fn heal(&mut self, _: &mut Cluster) -> Result<Healed, ChaosError> {
        let effective = self.came_to.answered > ANSWER * self.came_to.connections.max(1);
        Ok(Healed { detail: "nothing to undo".to_owned(), effective })
    }
}
