//! Two clusters side by side: neither takes a controller of the other.
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use streamhouse_tests::{Finished, LocalCluster, binary, free_ports, run_with, sorted, until};

const PATIENCE: Duration = Duration::from_secs(60);
/// A controller ends with this when its data is not what its cluster knows.
const REFUSED: i32 = 5;

/// A cluster of one controller and one agent, on the machine of another.
struct Other<'a> {
    beside: &'a LocalCluster,
    controller: String,
    http: String,
    controllers: Option<Child>,
    agent: Option<Child>,
}

impl<'a> Other<'a> {
    fn start(beside: &'a LocalCluster) -> Self {
        let ports: Vec<String> =
            free_ports(3).iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let [controller, http, agent] = ports.try_into().unwrap();
        let mut other = Self { beside, controller, http, controllers: None, agent: None };
        other.start_controller(&other.founder());
        let store = format!("file://{}", beside.folder().join("other-objects").display());
        let args = ["--controllers", &other.controller, "--listen", &agent, "--store", &store];
        other.agent = Some(other.spawn("agent", &args));
        until("the other cluster serves", PATIENCE, || {
            let status = other.run(&["status", "--output", "json"]);
            let agents = |status: &Value| status["agents"].as_array().map_or(0, Vec::len);
            (status.code == Some(0) && agents(&status.json()) == 1).then_some(())
        });
        other
    }

    /// Who it is when its controller founds it, or starts again.
    fn founder(&self) -> Vec<String> {
        let peers = format!("1={}", self.controller);
        ["--node-id", "1", "--peers", &peers].map(str::to_owned).to_vec()
    }

    fn start_controller(&mut self, who: &[String]) {
        let data = self.beside.folder().join("other-controller");
        let data = data.to_str().unwrap().to_owned();
        let mut args = vec!["--listen", &self.controller, "--http-listen", &self.http];
        args.extend(["--data", &data]);
        args.extend(who.iter().map(String::as_str));
        self.controllers = Some(self.spawn("controller", &args));
    }

    /// In the group that ends with the cluster beside.
    fn spawn(&self, role: &str, args: &[&str]) -> Child {
        let log = self.beside.folder().join(format!("other-{role}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        Command::new(binary())
            .arg(role)
            .args(args)
            .env_remove("STREAMHOUSE_CONTROLLERS")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(self.beside.process_group())
            .spawn()
            .unwrap()
    }

    fn log(&self) -> String {
        let log = self.beside.folder().join("other-controller.log");
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.run_with_input(args, b"")
    }

    fn run_with_input(&self, args: &[&str], input: &[u8]) -> Finished {
        run_with(args, &[("STREAMHOUSE_CONTROLLERS", &self.controller)], input)
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        for child in [&mut self.controllers, &mut self.agent].into_iter().flatten() {
            // One that has ended already is as dead as it will be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn rows(of: &str) -> Vec<Vec<u8>> {
    sorted((0..500).map(|n| format!("{of},{n}").into_bytes()).collect())
}

/// The controllers as a cluster knows them: address and role.
fn members(status: &Value) -> Vec<(String, String)> {
    let members = status["controllers"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    members.map(|c| (text(&c["address"]), text(&c["role"]))).collect()
}

fn holds(read: Finished, expected: &[Vec<u8>]) {
    assert!(sorted(read.ok().lines()) == expected, "a cluster has lost something");
}

#[test]
fn a_controller_of_another_cluster_is_refused() {
    const READ: [&str; 3] = ["consume", "t", "--to-end"];
    let cluster = LocalCluster::start(3, 1);
    let mut other = Other::start(&cluster);
    let (ours, theirs) = (rows("ours"), rows("theirs"));
    let status = ["status", "--output", "json"];
    let create = ["topic", "create", "t", "--partitions", "2"];
    cluster.run(&create).ok();
    other.run(&create).ok();
    cluster.run_with_input(&["produce", "t"], &ours.join(&b'\n')).ok();
    other.run_with_input(&["produce", "t"], &theirs.join(&b'\n')).ok();
    let before =
        (members(&cluster.run(&status).ok().json()), members(&other.run(&status).ok().json()));

    // Theirs to us, ours to them; whoever of ours it is.
    let foreign = |address: &str| format!("the controller at {address} belongs to another cluster");
    let refused = cluster.run(&["cluster", "add-controller", &other.controller]);
    assert!(refused.error().contains(&foreign(&other.controller)), "{refused:?}");
    let replace = ["cluster", "replace-controller", "2", &other.controller];
    let refused = cluster.run(&replace);
    assert!(refused.error().contains(&foreign(&other.controller)), "{refused:?}");
    for n in 1..=3 {
        let address = cluster.controller_address(n).to_string();
        let refused = other.run(&["cluster", "add-controller", &address]);
        assert!(refused.error().contains(&foreign(&address)), "{refused:?}");
    }
    let after =
        (members(&cluster.run(&status).ok().json()), members(&other.run(&status).ok().json()));
    assert_eq!(before, after);
    holds(cluster.run(&READ), &ours);
    holds(other.run(&READ), &theirs);

    // Told to join us with their data, it says what is wrong, and ends.
    let mut controller = other.controllers.take().unwrap();
    controller.kill().unwrap();
    controller.wait().unwrap();
    other.start_controller(&["--join".to_owned(), cluster.controllers()]);
    let mut controller = other.controllers.take().unwrap();
    let code = until("it ends by itself", PATIENCE, || controller.try_wait().unwrap());
    assert_eq!(code.code(), Some(REFUSED));
    assert!(other.log().contains("belongs to another cluster"), "{}", other.log());
    assert_eq!(members(&cluster.run(&status).ok().json()), before.0);
    // Started as it was before, it has everything.
    other.start_controller(&other.founder());
    until("the other cluster serves again", PATIENCE, || {
        let read = other.run(&READ);
        (read.code == Some(0)).then(|| holds(read, &theirs))
    });
    holds(cluster.run(&READ), &ours);
}
