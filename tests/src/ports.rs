//! Ports nobody listens on.

use std::net::TcpListener;

/// So many free ports of the loopback. Taken below the range from which the system gives out the ports of outgoing
/// connections, so that none of these is taken by one before a process under test listens there.
pub fn free_ports(count: usize) -> Vec<u16> {
    let first = free_run(u16::try_from(count).expect("a few ports"), &[]);
    (first..).take(count).collect()
}

/// A base port for `streamhouse up` with up to nine controllers and agents, and the controllers' HTTP.
pub fn free_base_port() -> u16 {
    free_run(10, &[100, 200]) - 1
}

/// The first of `length` free ports in a row; and as many must be free at each of `distances` above them.
fn free_run(length: u16, distances: &[u16]) -> u16 {
    const LOWEST: u32 = 10_000;
    const HIGHEST: u32 = 32_000;
    // Test binaries may run side by side: each starts looking somewhere else.
    let spread = std::process::id().wrapping_mul(211) % (HIGHEST - LOWEST);
    let candidates = (0..HIGHEST - LOWEST).step_by(usize::from(length));
    candidates
        .map(|step| (LOWEST + (spread + step) % (HIGHEST - LOWEST)) as u16)
        .find(|first| {
            let starts = std::iter::once(0).chain(distances.iter().copied());
            starts.flat_map(|start| (0..length).map(move |n| first + start + n)).all(is_free)
        })
        .expect("some ports are free")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
