//! Ports nobody listens on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// So many free addresses of the loopback. Below the range from which the system gives out the ports of outgoing
/// connections, so that none of these is taken by one before a process of the trial listens there.
pub(super) fn free(count: usize) -> io::Result<Vec<SocketAddr>> {
    const LOWEST: u32 = 10_000;
    const HIGHEST: u32 = 32_000;
    // Trials may run side by side: each starts looking somewhere else.
    let spread = std::process::id().wrapping_mul(367) % (HIGHEST - LOWEST);
    let candidates =
        (0..HIGHEST - LOWEST).map(|step| LOWEST + (spread + step) % (HIGHEST - LOWEST));
    let addresses = candidates.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16)));
    let found: Vec<_> = addresses.filter(|a| TcpListener::bind(a).is_ok()).take(count).collect();
    if found.len() < count {
        return Err(io::Error::other(format!("fewer than {count} free ports on the loopback")));
    }
    Ok(found)
}
