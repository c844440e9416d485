//! What a local cluster is made of: `cluster.json` in its data folder.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::process::ProcessId;

/// Agents listen this much above controllers of the same number.
const AGENT_PORTS: u16 = 100;
/// Controllers answer over HTTP this much above where they listen.
const HTTP_PORTS: u16 = 200;

/// One process's place in the cluster; numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Member {
    Controller(u16),
    Agent(u16),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(number) => write!(f, "controller-{number}"),
            Self::Agent(number) => write!(f, "agent-{number}"),
        }
    }
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, number) = text.split_once('-').unwrap_or((text, ""));
        match (role, number.parse()) {
            ("controller", Ok(number)) => Ok(Self::Controller(number)),
            ("agent", Ok(number)) => Ok(Self::Agent(number)),
            _ => Err(format!("'{text}' is no member of a cluster")),
        }
    }
}

impl Serialize for Member {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The cluster as `up` made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) base_port: u16,
    pub(crate) controllers: u16,
    pub(crate) agents: u16,
    pub(crate) store: String,
    /// Somebody asked for the cluster to be stopped; not so once a process is started again.
    #[serde(default)]
    pub(crate) stopping: bool,
    /// The process that was last started for each member; it need not be running.
    pub(crate) processes: BTreeMap<Member, ProcessId>,
}

impl Record {
    const VERSION: u32 = 1;

    pub(crate) fn new(base_port: u16, controllers: u16, agents: u16, store: String) -> Self {
        let processes = BTreeMap::new();
        Self {
            version: Self::VERSION,
            base_port,
            controllers,
            agents,
            store,
            stopping: false,
            processes,
        }
    }

    /// The record in `folder`, if a cluster was ever started there.
    pub(crate) fn load(folder: &Folder) -> anyhow::Result<Option<Self>> {
        let path = folder.record();
        let naming = || format!("{}", path.display());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(naming),
        };
        let record: Self = serde_json::from_slice(&text).with_context(naming)?;
        anyhow::ensure!(
            record.version == Self::VERSION,
            "{}: version {} is not supported, only {} is",
            path.display(),
            record.version,
            Self::VERSION
        );
        Ok(Some(record))
    }

    /// Writes the record; a crash leaves the old one or the new one.
    pub(crate) fn save(&self, folder: &Folder) -> anyhow::Result<()> {
        let path = folder.record();
        let staged = path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&staged)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&staged, &path)?;
            File::open(folder.path())?.sync_all()
        };
        write().with_context(|| format!("{}", path.display()))
    }

    /// Every member, controllers first.
    pub(crate) fn members(&self) -> impl Iterator<Item = Member> + use<> {
        let controllers = (1..=self.controllers).map(Member::Controller);
        controllers.chain((1..=self.agents).map(Member::Agent))
    }

    /// Where `member` listens.
    pub(crate) fn address(&self, member: Member) -> SocketAddr {
        let port = match member {
            Member::Controller(number) => self.base_port + number,
            Member::Agent(number) => self.base_port + AGENT_PORTS + number,
        };
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// Where `member` answers over HTTP, if it does.
    pub(crate) fn http(&self, member: Member) -> Option<SocketAddr> {
        match member {
            Member::Controller(number) => {
                Some((Ipv4Addr::LOCALHOST, self.base_port + HTTP_PORTS + number).into())
            }
            Member::Agent(_) => None,
        }
    }

    /// The controllers' addresses, in order.
    pub(crate) fn controller_addresses(&self) -> Vec<String> {
        (1..=self.controllers).map(|n| self.address(Member::Controller(n)).to_string()).collect()
    }

    /// The process of `member`, if it runs.
    pub(crate) fn running(&self, member: Member) -> Option<&ProcessId> {
        self.processes.get(&member).filter(|process| process.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut record = Record::new(7600, 3, 2, "memory://x".into());
        record.processes.insert(Member::Agent(2), ProcessId::of(std::process::id()));
        record
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        assert_eq!(Record::load(&folder).unwrap(), None);
        record().save(&folder).unwrap();
        assert_eq!(Record::load(&folder).unwrap(), Some(record()));
    }

    #[test]
    fn a_record_from_the_future_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        Record { version: 2, ..record() }.save(&folder).unwrap();
        let error = Record::load(&folder).unwrap_err().to_string();
        assert!(error.contains("version 2 is not supported"), "{error}");
    }

    #[test]
    fn ports_follow_from_the_base() {
        let record = record();
        let ports: Vec<u16> = record.members().map(|m| record.address(m).port()).collect();
        assert_eq!(ports, [7601, 7602, 7603, 7701, 7702]);
        let http = record.members().filter_map(|m| record.http(m)).map(|address| address.port());
        assert_eq!(http.collect::<Vec<_>>(), [7801, 7802, 7803]);
    }

    #[test]
    fn only_a_process_that_runs_is_running() {
        let record = record();
        assert!(record.running(Member::Agent(2)).is_some());
        assert!(record.running(Member::Agent(1)).is_none());
    }
}
