//! Which controllers a command talks to.

use std::time::Duration;

use clap::Args;

use crate::exit::Failure;

/// Where the controllers of a local cluster listen unless its base port was chosen.
const LOCAL: [&str; 3] = ["127.0.0.1:7601", "127.0.0.1:7602", "127.0.0.1:7603"];

/// How long a command looks for a controller that can be reached: a wrong address is told soon.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// `--controllers`, its environment variable, or the local cluster's default.
#[derive(Args, Clone, Debug)]
pub(crate) struct Controllers {
    /// Addresses of controllers, `HOST:PORT` with commas between; any of them will do. Default: those of a local
    /// cluster on its default ports.
    #[arg(long, env = "STREAMHOUSE_CONTROLLERS", value_name = "ADDRS", hide_env_values = true)]
    controllers: Option<String>,
}

impl Controllers {
    /// The addresses, checked for form only.
    pub(crate) fn resolve(&self) -> Result<Vec<String>, Failure> {
        match self.controllers.as_deref().map(str::trim) {
            None | Some("") => Ok(LOCAL.map(str::to_owned).to_vec()),
            Some(list) => list.split(',').map(address).collect(),
        }
    }
}

/// Are these the ones that are taken when nobody names any?
pub(crate) fn are_default(addresses: &[String]) -> bool {
    addresses == LOCAL
}

/// `host:port` in the form in which it is used; a scheme in front is dropped.
pub(crate) fn address(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let wrong = |problem| Failure::usage(format!("address '{text}' {problem}: write HOST:PORT"));
    let (host, port) = bare.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
    if host.is_empty() || host.contains(['/', ' ', '@']) {
        return Err(wrong("names no host"));
    }
    if host.contains(';') {
        return Err(wrong("has a ';': commas stand between addresses"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(wrong("is IPv6 without brackets"));
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(bare.to_owned()),
        Ok(0) | Err(_) => Err(wrong("has no port between 1 and 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: Option<&str>) -> Result<Vec<String>, String> {
        let controllers = Controllers { controllers: text.map(str::to_owned) };
        controllers.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_given_means_the_local_cluster() {
        assert_eq!(resolve(None).unwrap(), LOCAL);
        assert_eq!(resolve(Some(" ")).unwrap(), LOCAL);
    }

    #[test]
    fn a_list_may_have_spaces_and_schemes() {
        let expected = ["a:1", "[::1]:2", "10.0.0.1:65535"];
        assert_eq!(resolve(Some("a:1, http://[::1]:2/,10.0.0.1:65535")).unwrap(), expected);
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (wrong, problem) in [
            ("localhost", "has no port"),
            (":7601", "names no host"),
            ("a:0", "no port between"),
            ("a:70000", "no port between"),
            ("::1:7601", "IPv6 without brackets"),
            ("a:1,,b:2", "has no port"),
        ] {
            let error = resolve(Some(wrong)).unwrap_err();
            assert!(error.contains(problem), "{wrong}: {error}");
        }
    }
}
