//! How a store is opened: time-outs, the environment, explicit options, reader or writer.

use std::time::Duration;

use crate::error::OpenError;
use crate::store::Store;

/// Options for opening a store. Later settings win: defaults, then the environment, then [`set`](Self::set).
#[derive(Clone)]
pub struct StoreOptions {
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) environment: bool,
    pub(crate) reader: bool,
    pub(crate) settings: Vec<(String, String)>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            environment: true,
            reader: false,
            settings: Vec::new(),
        }
    }
}

impl StoreOptions {
    /// Connect within 5 s, answer within 30 s, options from the environment.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long making a connection may take. Default 5 s; `file://` has no time-outs.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may take, from connecting to the last byte of its answer. Default 30 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// One option of the kind of store, named as in the environment: `AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`,
    /// `AZURE_STORAGE_ACCOUNT_NAME`, … (upper or lower case). An option that the store does not know is an error.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Several options, as by [`set`](Self::set).
    #[must_use]
    pub fn set_all(mut self, options: impl IntoIterator<Item = (String, String)>) -> Self {
        self.settings.extend(options);
        self
    }

    /// Take no option from the environment.
    #[must_use]
    pub fn without_environment(mut self) -> Self {
        self.environment = false;
        self
    }

    /// Only for reading: a `file://` store's folder is neither made nor tried nor swept.
    #[must_use]
    pub fn reader(mut self) -> Self {
        self.reader = true;
        self
    }

    /// Open the store that `url` names.
    pub fn open(self, url: &str) -> Result<Store, OpenError> {
        crate::open::open(url, &self)
    }
}

// By hand: the settings hold secrets.
impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.settings.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("StoreOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("environment", &self.environment)
            .field("reader", &self.reader)
            .field("settings", &names)
            .finish()
    }
}
