//! Topics that are created, one after another.
use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::Admin;
use streamhouse_tests::{LocalCluster, Stopwatch};

use super::{Background, Course};

const EVERY: Duration = Duration::from_millis(20);

/// The load; it ends with their names.
pub(crate) fn topics(cluster: &LocalCluster) -> Background<Vec<String>> {
    let addresses = cluster.controllers();
    Background::start("topics created", move |course: Course| async move {
        let admin = Admin::builder().controllers(addresses.split(',')).build().unwrap();
        let mut names = Vec::new();
        let mut pace = tokio::time::interval(EVERY);
        while course.goes_on() {
            pace.tick().await;
            let name = format!("new-{}", names.len());
            let watch = Stopwatch::start();
            // RETRY: had it been created by a try whose answer was lost, this would be that answer.
            admin.create_topic(&name, 1, BTreeMap::new()).await.unwrap();
            course.done(1, watch.elapsed());
            names.push(name);
        }
        names
    })
}
