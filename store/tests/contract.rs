//! The contract of a store, kept by each kind that can run here.
//!
//! moto is the judge of the S3 protocol; the endpoint inside this process is ours, so what it says of our client
//! proves less, but it can be built on by fault injection and has to keep the contract itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use object_store::memory::InMemory;
use streamhouse_store::contract::{self, moto::Moto};
use streamhouse_store::endpoint::{Endpoint, Fate, Interference, Memory};
use streamhouse_store::{Store, StoreKind, StoreOptions};

async fn uploads(store: &Store) {
    contract::an_upload_is_one_object(store).await;
    contract::an_upload_that_was_given_up_is_no_object(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    contract::all(&Store::open("memory://contract").unwrap()).await;
    contract::all(&Store::open("memory://contract/with/prefix").unwrap()).await;
    uploads(&Store::open("memory://contract/with/prefix").unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/made/at/open", dir.path().display());
    let store = Store::open(&url).unwrap();
    assert_eq!(store.kind(), StoreKind::File);
    assert!(!store.is_remote());
    contract::all(&store).await;
    uploads(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_object_store_keeps_the_contract() {
    let store =
        Store::from_object_store(Arc::new(InMemory::new()), "some/prefix", StoreKind::Memory);
    assert_eq!(store.url(), "memory://given/some/prefix");
    contract::all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_keeps_the_contract() {
    let moto = Moto::start().await;
    let store = moto.store("contract");
    assert_eq!(store.url(), "s3://streamhouse/contract");
    assert!(store.is_remote());
    contract::all(&store).await;
    uploads(&store).await;
    contract::all(&moto.store("")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_over_memory_keeps_the_contract() {
    let endpoint = Endpoint::start(Arc::new(InMemory::new())).await.unwrap();
    contract::all(&through(&endpoint)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_over_an_ordered_bucket_keeps_the_contract() {
    let pass: Arc<dyn Interference> = Arc::new(Pass);
    let endpoint = Endpoint::start_over(Memory::new(), pass).await.unwrap();
    contract::all(&through(&endpoint)).await;
}

/// No interference.
struct Pass;

impl Interference for Pass {
    fn fate(&self, _: &http::Method, _: &str) -> Fate {
        Fate::Pass
    }

    fn done(&self, _: &http::Method, _: &str, _: http::StatusCode) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_over_a_folder_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let folder = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    let endpoint = Endpoint::start(Arc::new(folder)).await.unwrap();
    contract::all(&through(&endpoint)).await;
}

fn through(endpoint: &Endpoint) -> Store {
    StoreOptions::new()
        .without_environment()
        .set_all(endpoint.options())
        .open("s3://bucket/prefix")
        .unwrap()
}
