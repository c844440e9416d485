//! How each link is: from whom to whom bytes pass, late or not at all. Set by faults, followed by the proxies, which
//! count what that did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::node::Node;
use super::strikes::{Strikes, Struck};

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Way {
    /// Bytes pass.
    #[default]
    Open,
    /// They pass so much later.
    Late(Duration),
    /// They wait until this is over, as behind a broken cable; nobody is told.
    Silent,
}

/// A link, from the one that connects to the one that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rule {
    /// From the one that connects.
    pub(crate) forward: Way,
    /// To the one that connects.
    pub(crate) backward: Way,
    /// Connections are reset, new ones at once.
    pub(crate) refuse: bool,
    /// The listening side of every connection is gone, and the connecting one is not told; nor is who connects anew.
    pub(crate) half_open: bool,
    /// Connections that were made under another number are reset.
    pub(crate) cut: u64,
}

type Table = Arc<BTreeMap<(Node, Node), Rule>>;

/// What was done to each link since that was asked last.
type Counts = Arc<Mutex<BTreeMap<(Node, Node), Arc<Strikes>>>>;

/// All links of a cluster; those not named are open. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    table: Arc<watch::Sender<Table>>,
    counts: Counts,
}

impl Links {
    pub(super) fn new() -> Self {
        Self { table: Arc::new(watch::Sender::new(Table::default())), counts: Counts::default() }
    }

    pub(super) fn watch(&self, link: (Node, Node)) -> LinkWatch {
        let strikes = Arc::clone(self.counts.lock().entry(link).or_default());
        LinkWatch { link, table: self.table.subscribe(), strikes }
    }

    /// What rules have done to bytes and connections since that was asked last.
    pub(crate) fn struck(&self) -> Struck {
        self.counts.lock().values().map(|strikes| strikes.take()).sum()
    }

    /// Changes these links.
    pub(crate) fn set(
        &self,
        links: impl IntoIterator<Item = (Node, Node)>,
        change: impl Fn(&mut Rule),
    ) {
        self.table.send_modify(|table| {
            let table = Arc::make_mut(table);
            for link in links {
                change(table.entry(link).or_default());
            }
        });
    }

    /// Opens all links; what their rules had done until then.
    pub(crate) fn heal(&self) -> Struck {
        let struck = self.struck();
        self.table.send_modify(|table| {
            for rule in Arc::make_mut(table).values_mut() {
                *rule = Rule { cut: rule.cut, ..Rule::default() };
            }
        });
        struck
    }
}

/// One link, as a connection of it sees it.
#[derive(Debug, Clone)]
pub(super) struct LinkWatch {
    link: (Node, Node),
    table: watch::Receiver<Table>,
    strikes: Arc<Strikes>,
}

impl LinkWatch {
    pub(super) fn rule(&self) -> Rule {
        self.table.borrow().get(&self.link).copied().unwrap_or_default()
    }

    /// Where it is noted what the rule does.
    pub(super) fn strikes(&self) -> &Strikes {
        &self.strikes
    }

    /// Waits until the rule is such; for ever if the cluster is gone.
    pub(super) async fn until(&mut self, such: impl Fn(&Rule) -> bool) {
        let link = self.link;
        let reached = self.table.wait_for(|table| {
            let rule = table.get(&link).copied().unwrap_or_default();
            such(&rule)
        });
        if reached.await.is_err() {
            std::future::pending().await
        }
    }
}
