//! `streamhouse controller`: the process that keeps the metadata.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use streamhouse_controller::{Controller, ControllerOptions};

use super::listen;
use crate::controllers;
use crate::exit::{Failure, Kind};
use crate::signals::StopSignals;

/// Runs until SIGTERM or SIGINT, then hands leadership over and exits with 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// This controller's number among its peers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
    /// Where to listen, HOST:PORT.
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// How others reach this controller, HOST:PORT. Default: its address among the peers.
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// All controllers of the cluster, this one included: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT.
    #[arg(long, value_name = "PEERS")]
    peers: String,
    /// The folder for its data, its alone; made if missing.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let peers = parse_peers(&args.peers)?;
    if !peers.contains_key(&args.node_id) {
        let message = format!("--peers '{}' does not name --node-id {}", args.peers, args.node_id);
        return Err(Failure::usage(message).into());
    }
    let address = listen::address("--listen", &args.listen)?;
    let naming = format!("controller {} on {address}", args.node_id);
    let mut options = ControllerOptions::new(args.node_id, address, peers, args.data);
    options.advertise = args.advertise.as_deref().map(controllers::address).transpose()?;

    // Before anything is started, so that no signal finds it half done.
    let mut stop = StopSignals::listen()?;
    let controller = tokio::select! {
        started = Controller::start(options) => started.with_context(|| naming.clone())?,
        signal = stop.next() => {
            tracing::info!(signal, "stopped before it was started");
            return Ok(());
        }
    };
    tracing::info!(node_id = args.node_id, %address, pid = std::process::id(), "controller listens");
    tokio::select! {
        signal = stop.next() => tracing::info!(signal, "stopping"),
        () = controller.failed() => {
            let message = format!("{naming}: cannot go on; the reason is in the log above");
            return Err(Failure::new(Kind::Failed, message).into());
        }
    }
    controller.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// `1=a:1,2=b:2` as a map.
fn parse_peers(text: &str) -> Result<BTreeMap<u64, String>, Failure> {
    let mut peers = BTreeMap::new();
    for part in text.split(',') {
        let wrong = |problem: &str| Failure::usage(format!("--peers: '{}' {problem}", part.trim()));
        let (id, address) = part.split_once('=').ok_or_else(|| wrong("is not ID=HOST:PORT"))?;
        let id = id.trim().parse().ok().filter(|id| *id > 0);
        let id = id.ok_or_else(|| wrong("has no number above 0 in front"))?;
        let address = controllers::address(address)?;
        if peers.values().any(|other| *other == address) {
            return Err(wrong("has the address of another peer"));
        }
        if peers.insert(id, address).is_some() {
            return Err(wrong("has the number of another peer"));
        }
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_numbered_addresses() {
        let peers = parse_peers("1=a:7601, 3=c:7603").unwrap();
        let expected = [(1, "a:7601".to_owned()), (3, "c:7603".to_owned())];
        assert_eq!(peers, BTreeMap::from(expected));
    }

    #[test]
    fn a_wrong_peer_is_named() {
        for (wrong, problem) in [
            ("", "is not ID=HOST:PORT"),
            ("a:1", "is not ID=HOST:PORT"),
            ("0=a:1", "no number above 0"),
            ("x=a:1", "no number above 0"),
            ("1=a", "has no port"),
            ("1=a:1,1=b:1", "'1=b:1' has the number of another"),
            ("1=a:1,2=a:1", "'2=a:1' has the address of another"),
        ] {
            let error = parse_peers(wrong).unwrap_err().to_string();
            assert!(error.contains(problem), "{wrong}: {error}");
        }
    }
}
