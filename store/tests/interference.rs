//! What an endpoint with interference does to requests, seen from a client.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use object_store::memory::InMemory;
use streamhouse_store::endpoint::{Endpoint, Fate, Interference};
use streamhouse_store::{GetError, PutError, Store, StoreOptions};

/// One fate for all, and a note of what was done.
struct Fixed {
    fate: Mutex<Fate>,
    done: Mutex<Vec<(Method, String, StatusCode)>>,
}

impl Interference for Fixed {
    fn fate(&self, _: &Method, _: &str) -> Fate {
        *self.fate.lock().unwrap()
    }

    fn done(&self, method: &Method, path: &str, status: StatusCode) {
        self.done.lock().unwrap().push((method.clone(), path.to_owned(), status));
    }
}

struct World {
    fixed: Arc<Fixed>,
    store: Store,
    _endpoint: Endpoint,
}

impl World {
    async fn new() -> Self {
        let fixed = Arc::new(Fixed { fate: Mutex::new(Fate::Pass), done: Mutex::default() });
        let endpoint = Endpoint::start_with(Arc::new(InMemory::new()), fixed.clone());
        let endpoint = endpoint.await.unwrap();
        let store = StoreOptions::new()
            .without_environment()
            .request_timeout(Duration::from_secs(3))
            .set_all(endpoint.options())
            .open("s3://bucket/p")
            .unwrap();
        Self { fixed, store, _endpoint: endpoint }
    }

    fn set(&self, fate: Fate) {
        *self.fixed.fate.lock().unwrap() = fate;
    }

    async fn create(&self, key: &str) -> Result<(), PutError> {
        let bytes = bytes::Bytes::from_static(b"0123456789");
        self.store.create(key, bytes).await.map(drop)
    }
}

#[tokio::test]
async fn a_refused_write_is_not_done() {
    let world = World::new().await;
    world.set(Fate::Refused { status: 503, code: "SlowDown" });
    assert!(matches!(world.create("k").await, Err(PutError::Throttled { .. })));
    world.set(Fate::Refused { status: 400, code: "ExpiredToken" });
    assert!(matches!(world.create("k").await, Err(PutError::Denied { .. })));
    world.set(Fate::ErrorInOk);
    assert!(matches!(world.create("k").await, Err(PutError::Ambiguous { .. })));
    for fate in [Fate::Silent, Fate::Cut] {
        world.set(fate);
        assert!(matches!(world.create("k").await, Err(PutError::Ambiguous { .. })), "{fate:?}");
    }
    world.set(Fate::Pass);
    assert_eq!(world.store.head("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_write_done() {
    let world = World::new().await;
    for (key, fate) in [("a", Fate::DoneThenCut), ("b", Fate::DoneThenSilent)] {
        world.set(fate);
        assert!(matches!(world.create(key).await, Err(PutError::Ambiguous { .. })), "{fate:?}");
        world.set(Fate::Pass);
        assert_eq!(world.store.head(key).await.unwrap(), Some(10), "{fate:?}");
    }
    let done = world.fixed.done.lock().unwrap();
    assert!(done.contains(&(Method::PUT, "/bucket/p/a".to_owned(), StatusCode::OK)), "{done:?}");
}

#[tokio::test]
async fn an_altered_body_is_short_or_other_bytes() {
    let world = World::new().await;
    world.create("k").await.unwrap();
    world.set(Fate::Truncated);
    let short = world.store.get_range("k", 0..10).await;
    assert!(matches!(short, Err(GetError::Short { .. } | GetError::Other { .. })), "{short:?}");
    // Nothing but a checksum can tell.
    world.set(Fate::BitFlipped);
    assert_eq!(&*world.store.get_range("k", 0..10).await.unwrap(), b"0123446789");
}
