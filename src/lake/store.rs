//! Where a lake can be: a directory, or what a URL names.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use url::Url;

use super::mended;
use crate::exit::Fault;

/// How long a request is tried again before the run ends with exit code 75; a scheduler tries again after that.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// The directory that a location names, if it names one.
pub fn directory(location: &str) -> Result<Option<PathBuf>> {
    if !location.contains("://") {
        return Ok(Some(PathBuf::from(location)));
    }
    let url = parse(location)?;
    if url.scheme() != "file" {
        return Ok(None);
    }
    let path = url.to_file_path();
    let path = path.map_err(|()| Fault::Usage(format!("`{location}` names no directory; write `file:///an/absolute/path`")))?;
    Ok(Some(path))
}

/// The store behind a location, with its root at the lake's.
pub fn open(location: &str, directory: Option<&FilePath>) -> Result<Arc<dyn ObjectStore>> {
    if let Some(directory) = directory {
        let store = LocalFileSystem::new_with_prefix(directory);
        return Ok(Arc::new(store.with_context(|| format!("cannot open the lake `{}`", directory.display()))?));
    }
    let url = parse(location)?;
    let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let opened: Result<Arc<dyn ObjectStore>, Error> = match url.scheme() {
        "memory" => return Ok(Arc::new(InMemory::new())),
        "s3" | "s3a" => {
            let builder = AmazonS3Builder::from_env().with_url(location).with_retry(retry);
            let builder = if is_plain_loopback(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]) {
                builder.with_allow_http(true)
            } else {
                builder
            };
            builder.build().map(|store| Arc::new(store) as _)
        }
        "gs" => {
            GoogleCloudStorageBuilder::from_env().with_url(location).with_retry(retry).build().map(|store| Arc::new(store) as _)
        }
        "az" | "azure" | "abfs" | "abfss" => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(location).with_retry(retry);
            let builder = if is_plain_loopback(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]) {
                builder.with_allow_http(true)
            } else {
                builder
            };
            builder.build().map(|store| Arc::new(store) as _)
        }
        scheme => {
            let message = format!(
                "`{scheme}://` is no place for a lake; use a directory, `s3://`, `gs://`, `az://`, `file://` or `memory://`"
            );
            return Err(Fault::Usage(message).into());
        }
    };
    let store = opened.map_err(|error| Fault::Usage(format!("cannot open `{location}`: {error}")))?;
    let prefix = Path::from_url_path(url.path()).with_context(|| format!("`{location}` is no path of a store"))?;
    Ok(if prefix.as_ref().is_empty() { store } else { Arc::new(mended::folder(store, prefix)) })
}

/// A store's error with what was being done. What may pass (no answer, too many requests) asks to be tried again later.
pub fn fault(error: Error, doing: &str) -> anyhow::Error {
    match error {
        Error::Generic { store, .. } if store != "LocalFileSystem" => {
            let message = format!("{doing}: the store did not answer as it should; try again later");
            anyhow::Error::new(error).context(Fault::TryAgain(message))
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            anyhow::Error::new(error).context(Fault::Failed(format!("{doing}: the store refuses these credentials")))
        }
        error => anyhow::Error::new(error).context(doing.to_owned()),
    }
}

/// Creates an object twice. A store that lets the second one through would let two runs commit the same number.
pub async fn check_conditional_put(store: &dyn ObjectStore, location: &str) -> Result<()> {
    let path = Path::from(format!("_check/{}", uuid::Uuid::new_v4().simple()));
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let first = store.put_opts(&path, PutPayload::from_static(b"first"), create()).await;
    first.map_err(|error| fault(error, &format!("cannot write to `{location}`")))?;
    let second = store.put_opts(&path, PutPayload::from_static(b"second"), create()).await;
    let deleted = store.delete(&path).await;
    match second {
        Err(Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(fault(error, &format!("`{location}` cannot create an object conditionally"))),
        Ok(_) => {
            let message = format!(
                "`{location}` ignores `If-None-Match`: two runs could both commit, so no lake can live there; use a store that has conditional puts"
            );
            return Err(Fault::Failed(message).into());
        }
    }
    deleted.map_err(|error| fault(error, &format!("cannot delete from `{location}`; `fulgurite vacuum` will need to")))
}

fn parse(location: &str) -> Result<Url, Fault> {
    Url::parse(location).map_err(|error| Fault::Usage(format!("`{location}` is no URL: {error}")))
}

/// Whether the endpoint in the first of these variables that is set is on this machine and without TLS: allowed there, and nowhere else
/// without being asked.
fn is_plain_loopback(variables: &[&str]) -> bool {
    let Some(endpoint) = variables.iter().find_map(|name| std::env::var(name).ok()) else { return false };
    let Ok(url) = Url::parse(&endpoint) else { return false };
    url.scheme() == "http" && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_told_apart() {
        assert_eq!(directory("runs/lake").unwrap(), Some(PathBuf::from("runs/lake")));
        assert_eq!(directory("file:///runs/la%20ke").unwrap(), Some(PathBuf::from("/runs/la ke")));
        assert_eq!(directory("s3://bucket/lake").unwrap(), None);
        let error = open("ftp://host/lake", None).unwrap_err().to_string();
        assert!(error.starts_with("`ftp://` is no place for a lake"), "{error}");
    }
}
