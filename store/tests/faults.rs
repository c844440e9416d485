//! What a caller is told when things go wrong: each error names the store and the key, and answers whether a retry
//! can help and whether the write may have happened. The HTTP answers are real ones, from a socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use streamhouse_store::{GetError, OpenError, PutError, Store, StoreOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// A request that is answered at all is answered within this time.
const PATIENCE: Duration = Duration::from_secs(5);

fn s3(port: u16, timeout: Duration) -> Store {
    StoreOptions::new()
        .without_environment()
        .request_timeout(timeout)
        .set("AWS_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .set("AWS_ALLOW_HTTP", "true")
        .set("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .set("AWS_SECRET_ACCESS_KEY", "hidden")
        .open("s3://bucket/prefix")
        .unwrap()
}

/// What a server does with each connection once it has read a request.
enum Answer {
    Text(String),
    CloseAtOnce,
    SayNothing,
}

/// Serves `answer` to every connection and counts them, to see that no request is sent twice.
async fn server(answer: Answer) -> (u16, JoinSet<()>, tokio::sync::watch::Receiver<usize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, requests) = tokio::sync::watch::channel(0);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 16_384];
            let _ = stream.read(&mut request).await;
            seen.send_modify(|n| *n += 1);
            match &answer {
                Answer::Text(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                Answer::CloseAtOnce => {}
                Answer::SayNothing => silent.push(stream),
            }
        }
    });
    (port, task, requests)
}

fn status(line: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Text(format!(
        "HTTP/1.1 {line}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ))
}

async fn put(answer: Answer) -> PutError {
    let timeout = match &answer {
        Answer::SayNothing => Duration::from_millis(500),
        Answer::Text(_) | Answer::CloseAtOnce => PATIENCE,
    };
    let (port, task, requests) = server(answer).await;
    let error = s3(port, timeout).create("l0/7", Bytes::from_static(b"bytes")).await.unwrap_err();
    assert_eq!(*requests.borrow(), 1, "one attempt, no retries inside: {error}");
    drop(task);
    let message = error.to_string();
    assert!(message.contains("s3://bucket/prefix") && message.contains("l0/7"), "{message}");
    assert!(!message.contains("AKIAEXAMPLE") && !message.contains("hidden"), "{message}");
    error
}

#[tokio::test]
async fn a_refused_connection_is_a_write_that_did_not_happen() {
    // Nobody listens at a port that is bound and no more, and nobody else gets it.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let store = s3(bound.local_addr().unwrap().port(), PATIENCE);
    let error = store.create("l0/7", Bytes::from_static(b"bytes")).await.unwrap_err();
    assert!(matches!(error, PutError::Unavailable { .. }), "{error:?}");
    assert!(error.can_retry() && !error.may_have_happened());
    assert!(error.to_string().contains("Connection refused"), "{error}");
    assert!(matches!(store.get("l0/7").await, Err(GetError::Unavailable { .. })));
}

#[tokio::test]
async fn a_lost_answer_is_a_write_that_may_have_happened() {
    for answer in [
        Answer::CloseAtOnce,
        Answer::SayNothing,
        status("500 Internal Server Error", "<Error><Code>InternalError</Code></Error>"),
        status("502 Bad Gateway", ""),
        // A success, but not one that an S3 store sends: without an ETag.
        status("200 OK", ""),
        status("400 Bad Request", "<Error><Code>RequestTimeout</Code></Error>"),
        Answer::Text("HTTP/1.1 200 OK\r\nContent-".into()),
    ] {
        let error = put(answer).await;
        assert!(matches!(error, PutError::Ambiguous { .. }), "{error:?}");
        assert!(error.can_retry() && error.may_have_happened());
    }
}

#[tokio::test]
async fn a_throttled_write_is_told_from_a_failed_one() {
    let body =
        "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let error = put(status("503 Slow Down", body)).await;
    assert!(matches!(error, PutError::Throttled { .. }), "{error:?}");
    assert!(error.to_string().contains("SlowDown: Please reduce your request rate."), "{error}");
    assert!(error.can_retry());
    let error = put(status("429 Too Many Requests", "")).await;
    assert!(matches!(error, PutError::Throttled { .. }), "{error:?}");
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    for line in ["403 Forbidden", "401 Unauthorized"] {
        let error = put(status(line, denied)).await;
        assert!(matches!(error, PutError::Denied { .. }), "{error:?}");
        assert!(error.to_string().contains("AccessDenied"), "{error}");
        assert!(!error.can_retry() && !error.may_have_happened());
    }
    let error = put(status("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>")).await;
    assert!(matches!(error, PutError::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    let error = put(status("501 Not Implemented", "<Error><Code>NotImplemented</Code></Error>"));
    let error = error.await;
    assert!(matches!(error, PutError::Invalid { .. }), "{error:?}");
    assert!(!error.can_retry() && !error.may_have_happened());
    // The wrong region.
    let error = put(status("301 Moved Permanently", "")).await;
    assert!(matches!(error, PutError::Invalid { .. }), "{error:?}");
    assert!(!error.can_retry() && !error.may_have_happened());
}

#[tokio::test]
async fn a_body_cut_off_is_not_taken_for_the_object() {
    let head = "HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\nContent-Range: bytes 0-99/500\r\n\
                Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nETag: \"x\"\r\n\r\nonly this";
    let (port, task, _) = server(Answer::Text(head.into())).await;
    let error = s3(port, PATIENCE).get_range("l0/7", 0..100).await.unwrap_err();
    assert!(error.can_retry(), "{error:?}");
    drop(task);
}

#[test]
fn a_folder_that_cannot_be_is_refused_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    // As root no permission stops us: paths that cannot exist do.
    for path in [file.clone(), file.join("below"), "/proc/streamhouse".into(), "/dev/null".into()] {
        for options in [StoreOptions::new(), StoreOptions::new().reader()] {
            let url = format!("file://{}", path.display());
            let error = options.open(&url).unwrap_err();
            assert!(matches!(error, OpenError::Folder { .. }), "{error:?}");
            assert!(error.to_string().contains(&url), "{error}");
        }
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"x", "the file was left alone");
}

#[test]
fn a_reader_makes_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let url = format!("file://{}", missing.display());
    assert!(StoreOptions::new().reader().open(&url).is_err());
    assert!(!missing.exists());
    Store::open(&url).unwrap();
    assert!(StoreOptions::new().reader().open(&url).is_ok());
}

#[tokio::test]
async fn a_folder_whose_shape_changed_fails_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", dir.path().display())).unwrap();
    std::fs::write(dir.path().join("l0"), b"a file where a folder should be").unwrap();
    let error = store.create("l0/7", Bytes::from_static(b"bytes")).await.unwrap_err();
    assert!(matches!(error, PutError::Fatal { .. }), "{error:?}");
    assert!(!error.can_retry());
    assert!(error.to_string().contains("l0/7"), "{error}");
    let error = store.sync_existing("l1/none").await.unwrap_err();
    assert!(!error.can_retry(), "{error:?}");
}

#[tokio::test]
async fn a_folder_removed_under_a_writer_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}/root", dir.path().display())).unwrap();
    store.create("a/b/1", Bytes::from_static(b"1")).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("root/a")).unwrap();
    store.create("a/b/2", Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(store.get("a/b/2").await.unwrap(), "2");
    assert!(matches!(store.get("a/b/1").await, Err(GetError::NotFound { .. })));
}

/// ACK: an unmounted file system leaves such a path.
#[tokio::test]
async fn a_folder_that_is_another_one_takes_no_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (root, away) = (dir.path().join("root"), dir.path().join("away"));
    let store = Store::open(&format!("file://{}", root.display())).unwrap();
    store.create("a/1", Bytes::from_static(b"1")).await.unwrap();
    std::fs::rename(&root, &away).unwrap();
    let gone = store.create("a/2", Bytes::from_static(b"2")).await.unwrap_err();
    assert!(gone.to_string().contains("is gone"), "{gone}");
    assert!(!root.exists(), "nothing is made in its place");
    std::fs::create_dir_all(root.join("a")).unwrap();
    std::fs::write(root.join("a/1"), b"1").unwrap();
    let key = "a/2";
    let mut upload = store.upload(key);
    let large = upload.write(&vec![0; 9 << 20]).await.map(drop);
    for error in [
        store.create(key, Bytes::from_static(b"2")).await.map(drop),
        store.sync_existing("a/1").await,
        large,
    ] {
        let error = error.unwrap_err();
        assert!(error.can_retry(), "{error:?}");
        assert!(error.to_string().contains("another one than was opened"), "{error}");
    }
    assert!(!root.join(key).exists());
    let listed = store.list("a", None, 10).await.unwrap_err();
    assert!(listed.can_retry() && listed.to_string().contains("another one"), "{listed}");
    assert!(store.delete("a/1").await.is_err() && root.join("a/1").exists());
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::rename(&away, &root).unwrap();
    store.create(key, Bytes::from_static(b"2")).await.unwrap();
}

#[tokio::test]
async fn memory_stores_are_shared_by_name() {
    let (one, other) =
        (Store::open("memory://shared").unwrap(), Store::open("memory://other").unwrap());
    one.create("k", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(Store::open("memory://shared/").unwrap().get("k").await.unwrap(), "1");
    assert!(other.get("k").await.is_err());
    assert_eq!(Store::open("memory://shared/p").unwrap().head("k").await.unwrap(), None);
}
