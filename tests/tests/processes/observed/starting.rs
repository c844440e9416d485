//! A controller that has only just started: what it does not know yet, it does not tell.
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use streamhouse_tests::{binary, free_ports, http_get, one_at_a_time, until};

use super::PATIENCE;

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_controller_tells_no_term_before_it_knows_one() {
    let _alone = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let ports = free_ports(4);
    let address = |n: usize| format!("127.0.0.1:{}", ports[n]);
    // The other two are not there: it is in no term yet, and stays so.
    let peers: Vec<_> = (1..=3).map(|n| format!("{n}={}", address(n - 1))).collect();
    let controller = Command::new(binary())
        .args(["controller", "--node-id", "1", "--peers", &peers.join(",")])
        .args(["--listen", &address(0), "--http-listen", &address(3), "--data"])
        .arg(folder.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let controller = Running(controller);
    let http = address(3).parse().unwrap();
    let metrics = until("it tells what it measures", PATIENCE, || {
        let (status, text) = http_get(http, "/metrics")?;
        (status == 200).then_some(text)
    });
    let (_, ready) = http_get(http, "/readyz").unwrap();
    drop(controller);
    let told = |name: &str| {
        let name = format!("streamhouse_controller_{name} ");
        metrics.lines().any(|line| line.starts_with(&name))
    };
    assert!(told("applied_index") && !told("term"), "{metrics}");
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(
        (&ready["controller"]["id"], &ready["controller"]["term"]),
        (&1.into(), &Value::Null)
    );
}
