//! An agent seen from outside: what it counts, and what it says of itself.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn metrics(rig: &Rig) -> BTreeMap<String, f64> {
    let address = rig.agent.http_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let name = name.strip_prefix("streamhouse_agent_").expect("every name has the prefix");
        Some((name.to_owned(), value.parse().ok()?))
    });
    samples.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_producers_sent_and_what_became_of_it_is_counted() {
    let rig = Rig::new(|options| options.http_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    let mut producer = rig.producer().await;
    for _ in 0..5 {
        producer.send(0).await;
    }
    producer.acknowledged(5).await;
    let mut damaged = batch(10).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    producer.send_bytes(0, damaged.into()).await;
    producer.send(99).await;
    producer.answers(2).await;

    let found = metrics(&rig).await;
    assert_eq!(found["batches_in_total"], 6.0, "the damaged one was not taken");
    assert_eq!(found["records_in_total"], 6.0 * RECORDS as f64);
    assert_eq!(found["batches_in_bytes_total"], 6.0 * batch(10).len() as f64);
    assert_eq!(found["batches_acknowledged_total"], 5.0);
    assert_eq!(found["batches_refused_total{reason=\"corrupt_batch\"}"], 1.0);
    assert_eq!(found["batches_refused_total{reason=\"not_lease_holder\"}"], 1.0);
    assert_eq!(found["leases"], PARTITIONS as f64);
    assert_eq!(found["session_id"], rig.agent.session() as f64);
    assert_eq!((found["sessions_opened_total"], found["streams"]), (1.0, 1.0));
    assert!(found["puts_total{outcome=\"stored\"}"] >= 1.0);
    assert_eq!(found["put_seconds_count"], found["puts_total{outcome=\"stored\"}"]);
    assert!(found["commit_seconds_count"] >= 1.0 && found["put_bytes_total"] > 0.0);
    assert_eq!((found["buffer_used_bytes"], found["store_failing"]), (0.0, 0.0));
    assert!(found["buffer_limit_bytes"] > 0.0 && found["uploads_limit"] == 4.0);
    assert!(found["resident_memory_bytes"] > 1e6);
    rig.finish().await;
}
