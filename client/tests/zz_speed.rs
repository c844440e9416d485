mod world;
use std::time::{Duration, Instant};
use streamhouse_client::{Consumer, OffsetReset, Producer, Record};
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed() {
    let (world, controller) = world::World::new().await;
    let agent = world.add_agent().await;
    world.add_topic("t", 4, &agent);
    let n: usize = 2_000_000;
    for _ in 0..2 {
        let p = Producer::builder()
            .controllers([&*controller])
            .buffer_memory(512 << 20)
            .build()
            .await
            .unwrap();
        let value = b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";
        let keys = ["UA", "AA", "B6", "DL", "EV", "MQ", "US", "WN", "VX", "FL"];
        let t = Instant::now();
        for i in 0..n {
            drop(p.send(Record::to("t").key(keys[i % 10]).value(&value[..])).await.unwrap());
        }
        let sent = t.elapsed();
        p.flush().await.unwrap();
        eprintln!(
            "send {:?} flush {:?} = {:.0}/s sent, {:.0}/s acked {:?}",
            sent,
            t.elapsed(),
            n as f64 / sent.as_secs_f64(),
            n as f64 / t.elapsed().as_secs_f64(),
            p.metrics()
        );
    }
    let mut c = Consumer::builder()
        .controllers([&*controller])
        .topics(["t"])
        .object_store(world.store())
        .offset_reset(OffsetReset::Earliest)
        .build()
        .await
        .unwrap();
    let t = Instant::now();
    let mut got = 0;
    let mut bytes = 0;
    while got < 2 * n {
        for r in c.poll(Duration::from_secs(5)).await.unwrap() {
            got += 1;
            bytes += r.value.map_or(0, |v| v.len());
        }
    }
    eprintln!(
        "read {got} ({bytes} bytes) in {:?} = {:.0}/s {:?}",
        t.elapsed(),
        got as f64 / t.elapsed().as_secs_f64(),
        c.metrics()
    );
}
