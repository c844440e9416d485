//! How many clients, and for how long: the options of benchmarks that measure calls.

use std::time::Duration;

use super::figures::Window;

#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// How many clients at once; a measurement each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 64, 256])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: Vec<u16>,
    /// How long each measurement takes.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    measure: Duration,
    /// How long the load runs before it is measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    warm_up: Duration,
}

impl Load {
    pub(super) fn window(&self) -> Window {
        Window { warm_up: self.warm_up, measure: self.measure }
    }

    /// The counts of `clients`, one after the other.
    pub(super) fn counts(&self) -> impl Iterator<Item = usize> {
        self.clients.iter().copied().map(usize::from)
    }
}
