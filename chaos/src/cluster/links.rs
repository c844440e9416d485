//! How each link is: from whom to whom bytes pass, late or not at all. Set by faults, followed by the proxies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::node::Node;

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
    /// The listening side of every connection is gone, and the connecting one is not told.
    pub(crate) half_open: bool,
    /// Connections that were made under another number are reset.
    pub(crate) cut: u64,
}

type Table = Arc<BTreeMap<(Node, Node), Rule>>;

/// All links of a cluster; those not named are open. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Links(Arc<watch::Sender<Table>>);

impl Links {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Table::default())))
    }

    pub(super) fn watch(&self, link: (Node, Node)) -> LinkWatch {
        LinkWatch { link, table: self.0.subscribe() }
    }

    /// Changes these links.
    pub(crate) fn set(
        &self,
        links: impl IntoIterator<Item = (Node, Node)>,
        change: impl Fn(&mut Rule),
    ) {
        self.0.send_modify(|table| {
            let table = Arc::make_mut(table);
            for link in links {
                change(table.entry(link).or_default());
            }
        });
    }

    /// Opens all links.
    pub(crate) fn heal(&self) {
        self.0.send_modify(|table| {
            for rule in Arc::make_mut(table).values_mut() {
                *rule = Rule { cut: rule.cut, ..Rule::default() };
            }
        });
    }
}

/// One link, as a connection of it sees it.
#[derive(Debug, Clone)]
pub(super) struct LinkWatch {
    link: (Node, Node),
    table: watch::Receiver<Table>,
}

impl LinkWatch {
    pub(super) fn rule(&self) -> Rule {
        self.table.borrow().get(&self.link).copied().unwrap_or_default()
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
