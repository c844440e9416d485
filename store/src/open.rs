//! From a URL and options to an open store.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use parking_lot::Mutex;

use crate::error::OpenError;
use crate::folder::Folder;
use crate::location::{Location, StoreKind};
use crate::options::StoreOptions;
use crate::store::{Inner, Store};

/// The stores of `memory://`, which live as long as the process: an agent that stops and starts again inside a
/// test finds what it wrote.
static MEMORY: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

pub(crate) fn open(url: &str, options: &StoreOptions) -> Result<Store, OpenError> {
    let location = Location::parse(url)?;
    let mut folder = None;
    let objects: Arc<dyn ObjectStore> = match location.kind {
        StoreKind::File => {
            let (objects, opened) = open_folder(&location, options)?;
            folder = opened;
            objects
        }
        StoreKind::Memory => {
            let mut stores = MEMORY.lock();
            Arc::clone(stores.entry(location.bucket.clone()).or_default()) as _
        }
        StoreKind::S3 => open_s3(&location, options)?,
        StoreKind::Gcs => open_gcs(&location, options)?,
        StoreKind::Azure => open_azure(&location, options)?,
    };
    let Location { kind, canonical, prefix, .. } = location;
    Ok(Store::new(Inner { objects, url: canonical, kind, prefix, folder }))
}

type OpenFolder = (Arc<dyn ObjectStore>, Option<Arc<Folder>>);

fn open_folder(location: &Location, options: &StoreOptions) -> Result<OpenFolder, OpenError> {
    let url = || location.canonical.clone();
    let root = location.folder.clone().unwrap_or_default();
    let folder = Folder::new(root.clone());
    if !options.reader {
        folder.prepare().map_err(|step| OpenError::Folder {
            url: url(),
            path: step.path,
            action: step.action,
            source: step.source,
        })?;
    }
    // `new_with_prefix` reports a missing folder without its reason, so ask first.
    let refused = |source| OpenError::Folder {
        url: url(),
        path: root.clone(),
        action: "cannot be opened",
        source,
    };
    let found = std::fs::metadata(&root).map_err(refused)?;
    if !found.is_dir() {
        return Err(refused(std::io::ErrorKind::NotADirectory.into()));
    }
    folder.opened(&found);
    let files = LocalFileSystem::new_with_prefix(&root)
        .map_err(|error| refused(std::io::Error::other(error)))?
        .with_fsync(true);
    Ok((Arc::new(files), Some(Arc::new(folder))))
}

fn open_s3(location: &Location, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client(options))
        .with_retry(no_retries())
        .with_bucket_name(&location.bucket)
        // One DELETE a key: the bulk call is not part of what every S3-compatible store speaks.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
    for (key, value) in settings::<AmazonS3ConfigKey>(location, options, &["AWS_"], &[])? {
        builder = builder.with_config(key, value);
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let allow_http = AmazonS3ConfigKey::Client(object_store::ClientConfigKey::AllowHttp);
    let http_allowed = builder.get_config_value(&allow_http).is_some_and(|v| is_true(&v));
    if endpoint.is_some_and(|at| at.starts_with("http://")) && !http_allowed {
        return Err(option_error(
            location,
            "the endpoint is plain http: set AWS_ALLOW_HTTP=true to send data unencrypted",
        ));
    }
    // The bucket of the URL wins over one of the environment.
    let store = builder.with_bucket_name(&location.bucket).build();
    Ok(Arc::new(store.map_err(|error| build_error(location, &error))?))
}

fn open_gcs(
    location: &Location,
    options: &StoreOptions,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(client(options))
        .with_retry(no_retries());
    for (key, value) in settings(location, options, &["GOOGLE_"], &["SERVICE_ACCOUNT"])? {
        builder = builder.with_config(key, value);
    }
    let store = builder.with_bucket_name(&location.bucket).build();
    Ok(Arc::new(store.map_err(|error| build_error(location, &error))?))
}

fn open_azure(
    location: &Location,
    options: &StoreOptions,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let mut builder =
        MicrosoftAzureBuilder::new().with_client_options(client(options)).with_retry(no_retries());
    for (key, value) in settings(location, options, &["AZURE_"], &["IDENTITY_ENDPOINT"])? {
        builder = builder.with_config(key, value);
    }
    let store = builder.with_container_name(&location.bucket).build();
    Ok(Arc::new(store.map_err(|error| build_error(location, &error))?))
}

/// The options of one kind of store: from the environment those it knows, of the explicit ones all.
fn settings<K: FromStr>(
    location: &Location,
    options: &StoreOptions,
    prefixes: &[&str],
    names: &[&str],
) -> Result<Vec<(K, String)>, OpenError> {
    let mut settings = Vec::new();
    if options.environment {
        // Sorted, because two names may mean one option: AWS_ENDPOINT_URL wins over AWS_ENDPOINT everywhere.
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, value)| {
                let ours = prefixes.iter().any(|prefix| name.starts_with(prefix));
                (ours || names.contains(&name.as_str())) && !value.is_empty()
            })
            .collect();
        for (name, value) in environment {
            if let Ok(key) = name.to_ascii_lowercase().parse() {
                settings.push((key, value));
            }
        }
    }
    for (name, value) in &options.settings {
        let key = name.to_ascii_lowercase().parse().map_err(|_| {
            option_error(location, format!("the option {name} is not one of this store's"))
        })?;
        settings.push((key, value.clone()));
    }
    Ok(settings)
}

fn client(options: &StoreOptions) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(options.connect_timeout)
        .with_timeout(options.request_timeout)
}

/// ONCE: only the agent knows what may be sent again, so its retries are the only ones.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

fn option_error(location: &Location, reason: impl Into<String>) -> OpenError {
    OpenError::Options { url: location.canonical.clone(), reason: reason.into() }
}

fn build_error(location: &Location, error: &impl std::error::Error) -> OpenError {
    let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    option_error(location, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(options: &[(&str, &str)]) -> Result<Store, OpenError> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        StoreOptions::new().without_environment().set_all(options).open("s3://bucket/prefix")
    }

    #[test]
    fn an_option_that_the_store_does_not_know_is_named() {
        let message = s3(&[("AWS_ENDPONIT", "https://s3.local")]).unwrap_err().to_string();
        assert_eq!(
            message,
            "store s3://bucket/prefix: the option AWS_ENDPONIT is not one of this store's"
        );
    }

    #[test]
    fn a_plain_http_endpoint_needs_consent() {
        for name in ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
            let message = s3(&[(name, "http://127.0.0.1:1")]).unwrap_err().to_string();
            assert!(message.contains("AWS_ALLOW_HTTP=true"), "{message}");
            assert!(s3(&[(name, "http://127.0.0.1:1"), ("AWS_ALLOW_HTTP", "true")]).is_ok());
        }
    }

    #[test]
    fn half_a_key_pair_is_refused_by_name() {
        let message = s3(&[("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")]).unwrap_err().to_string();
        assert!(message.starts_with("store s3://bucket/prefix: "), "{message}");
        assert!(!message.contains("AKIAEXAMPLE"), "{message}");
    }

    #[test]
    fn remote_stores_open_without_contact() {
        let open = |url, set: &[(&str, &str)]| {
            let options = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            StoreOptions::new().without_environment().set_all(options).open(url).unwrap()
        };
        let store = open("gs://bucket/a/", &[("GOOGLE_SKIP_SIGNATURE", "true")]);
        assert_eq!((store.url(), store.kind()), ("gs://bucket/a", StoreKind::Gcs));
        let store = open("az://box/a", &[("AZURE_STORAGE_ACCOUNT_NAME", "account")]);
        assert_eq!((store.url(), store.kind()), ("az://box/a", StoreKind::Azure));
        assert!(store.is_remote());
    }
}
