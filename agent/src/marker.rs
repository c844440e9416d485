//! The store's marker: the object `<cluster>/marker`, by which a store is known to be the cluster's.
//!
//! A wrong mount, an emptied bucket or another one by the same name take writes as well as the right one; what was
//! acknowledged would be looked for in vain. So the first agent of a cluster marks the store before it registers it,
//! and every agent looks for the mark before it registers: no cluster has a store that is not marked.

use crate::backoff::Backoff;
use crate::controllers::Controllers;
use bytes::Bytes;
use std::future::Future;
use std::time::Duration;
use streamhouse_proto::v1::{GetCollectorRequest, GetCollectorResponse};
use streamhouse_segment::ClusterId;
use streamhouse_store::{Created, GetError, PutError, Store};

/// How often the store is asked.
const TRIES: u32 = 5;
/// How long an answer may take; each further one as much longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the store cannot be used for the cluster.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// It is another one than the cluster's, or was emptied.
    #[error(
        "the store {store} is not the one that cluster {cluster} wrote to: {key} is not there, {found}"
    )]
    Foreign {
        /// Its URL.
        store: String,
        /// The cluster's id.
        cluster: String,
        /// The marker's key.
        key: String,
        /// What is there instead.
        found: String,
    },
    /// The marker is there and says something else.
    #[error("{key} in the store {store} is not the marker of cluster {cluster}")]
    Altered {
        /// The store's URL.
        store: String,
        /// The cluster's id.
        cluster: String,
        /// The marker's key.
        key: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] GetError),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] PutError),
    /// The controllers did not say which cluster they are.
    #[error("the controllers refused to tell which cluster they are: {message}")]
    Refused {
        /// What they said.
        message: String,
    },
}

/// Looks for the marker of the controllers' cluster; the first agent places it. Waits for a leader.
pub(crate) async fn check(store: &Store, controllers: &Controllers) -> Result<(), MarkerError> {
    let told = controllers.call_collector("get collector", |mut client| async move {
        client.get(GetCollectorRequest {}).await
    });
    let told =
        told.await.map_err(|failed| MarkerError::Refused { message: failed.error.message })?;
    let GetCollectorResponse { cluster_id, store_url, .. } = told;
    let cluster = ClusterId::from_bytes(<[u8; 16]>::try_from(&cluster_id[..]).unwrap_or_default());
    let marker = Marker { store, cluster };
    if store_url.is_empty() {
        return marker.place().await;
    }
    if store_url != store.url() {
        // Another one by name already: the registration is refused for that.
        return Ok(());
    }
    marker.find(GetError::can_retry).await
}

struct Marker<'a> {
    store: &'a Store,
    cluster: ClusterId,
}

impl Marker<'_> {
    fn key(&self) -> String {
        self.cluster.marker_key()
    }

    fn text(&self) -> String {
        format!("the objects of StreamHouse cluster {}\n", self.cluster)
    }

    async fn place(&self) -> Result<(), MarkerError> {
        let (key, text) = (self.key(), Bytes::from(self.text()));
        let placed =
            patiently(PutError::can_retry, || self.store.create(&key, text.clone())).await?;
        if placed == Created::New {
            tracing::info!(key, store = self.store.url(), "marked the store as the cluster's");
        }
        // S3 also says "exists" of a writer that has not finished.
        let coming = |e: &GetError| e.can_retry() || matches!(e, GetError::NotFound { .. });
        self.find(coming).await
    }

    async fn find(&self, can_retry: impl Fn(&GetError) -> bool) -> Result<(), MarkerError> {
        let key = self.key();
        let names = || (self.store.url().to_owned(), self.cluster.to_string(), self.key());
        match patiently(can_retry, || self.store.get(&key)).await {
            Ok(found) if found == self.text() => Ok(()),
            Ok(_) => {
                let (store, cluster, key) = names();
                Err(MarkerError::Altered { store, cluster, key })
            }
            Err(GetError::NotFound { .. }) => {
                let found = match self.store.list("", None, 1).await?.first() {
                    Some(other) => format!("but {} is: mount or name the right one", other.key),
                    None => "it is empty: mount or name the right one".to_owned(),
                };
                let (store, cluster, key) = names();
                Err(MarkerError::Foreign { store, cluster, key, found })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Asks the store again while that can help, and when an answer does not come: the store may have lost it, and whoever
/// waits for the agent should not wait for the store's own timeout.
async fn patiently<T, E, F, Fut>(can_retry: impl Fn(&E) -> bool, mut ask: F) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    for attempt in 1..TRIES {
        match tokio::time::timeout(PATIENCE * attempt, ask()).await {
            Err(_) => {
                tracing::warn!(attempt, "the store does not answer for its marker: asking again")
            }
            Ok(Err(error)) if can_retry(&error) => tokio::time::sleep(backoff.next()).await,
            Ok(answer) => return answer,
        }
    }
    ask().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_asked_for_again() {
        let mut asked = 0;
        let begun = tokio::time::Instant::now();
        let ask = || {
            asked += 1;
            let answers = asked == 3;
            async move {
                if !answers {
                    std::future::pending::<()>().await;
                }
                Ok::<_, GetError>(asked)
            }
        };
        assert_eq!(patiently(GetError::can_retry, ask).await.unwrap(), 3);
        assert_eq!(begun.elapsed(), PATIENCE * 3);
    }

    async fn outcome(store: &Store, cluster: u8) -> Result<(), String> {
        let marker = Marker { store, cluster: ClusterId::from_bytes([cluster; 16]) };
        marker.find(GetError::can_retry).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_empty_store_and_another_cluster_s_are_told_from_the_own_one() {
        let store = Store::open("memory://marked").unwrap();
        let error = outcome(&store, 1).await.unwrap_err();
        assert!(error.contains("memory://marked") && error.contains("it is empty"), "{error}");

        let cluster = ClusterId::from_bytes([1; 16]);
        let marker = Marker { store: &store, cluster };
        marker.place().await.unwrap();
        // The second agent that comes first, and a first one that comes again.
        marker.place().await.unwrap();
        assert_eq!(outcome(&store, 1).await, Ok(()));

        let error = outcome(&store, 2).await.unwrap_err();
        assert!(error.contains(&format!("but {cluster}/marker is")), "{error}");
        let other = ClusterId::from_bytes([2; 16]);
        store.create(&format!("{other}/marker"), Bytes::from_static(b"?")).await.unwrap();
        let error = outcome(&store, 2).await.unwrap_err();
        assert!(error.contains("is not the marker of cluster"), "{error}");
    }
}
