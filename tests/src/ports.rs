//! Ports nobody listens on.

use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

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

/// The first of `length` free ports in a row; and as many must be free at each of `distances` above them. Those that
/// were given out last are not given again before all others had their turn: whoever got them may not listen yet.
fn free_run(length: u16, distances: &[u16]) -> u16 {
    const LOWEST: u32 = 10_000;
    const HIGHEST: u32 = 32_000;
    const COUNT: u32 = HIGHEST - LOWEST;
    static NEXT: Mutex<Option<u32>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    // Test binaries may run side by side: each starts looking somewhere else.
    let start = next.unwrap_or_else(|| std::process::id().wrapping_mul(211) % COUNT);
    let candidates = (0..COUNT).step_by(usize::from(length)).map(|step| (start + step) % COUNT);
    let free = candidates.map(|place| (place, (LOWEST + place) as u16)).find(|(_, first)| {
        let starts = std::iter::once(0).chain(distances.iter().copied());
        starts.flat_map(|start| (0..length).map(move |n| first + start + n)).all(is_free)
    });
    let (place, first) = free.expect("some ports are free");
    *next = Some((place + u32::from(length)) % COUNT);
    first
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
