//! Addresses to listen on.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::exit::Failure;

/// The address that `text` names; a host name is resolved. Port 0 is refused: others have to know the port.
pub(crate) fn address(option: &str, text: &str) -> Result<SocketAddr, Failure> {
    let wrong = |problem: String| Failure::usage(format!("{option} '{text}': {problem}"));
    let mut found = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    let address = found.next().ok_or_else(|| wrong("names no address".into()))?;
    if address.port() == 0 {
        return Err(wrong("port 0 would be another one with every start; choose one".into()));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_resolved_or_named_in_the_error() {
        assert_eq!(address("--listen", "127.0.0.1:7601").unwrap().to_string(), "127.0.0.1:7601");
        assert_eq!(address("--listen", "localhost:7601").unwrap().port(), 7601);
        for wrong in ["127.0.0.1", "127.0.0.1:0", "no host:1", ""] {
            let error = address("--listen", wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--listen '{wrong}': ")), "{error}");
        }
    }
}
