//! An object store's client from a URL, the environment and files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use crate::Error;
use crate::destination::url::{Scheme, Url};

/// BOUND: time for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// BOUND: time of a request, a part of 8 MiB at 28 kB/s.
const REQUEST_MAX: Duration = Duration::from_secs(300);
/// BOUND: tries of a request that fails by the store's fault, and the time after which none is begun.
const RETRIES_MAX: usize = 10;
const RETRY_TIME_MAX: Duration = Duration::from_secs(180);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// BOUND: bytes of a file with credentials or certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// AWS's own name of a file with credentials, and of the section in it.
const CREDENTIALS_VARIABLE: &str = "AWS_SHARED_CREDENTIALS_FILE";
const PROFILE_VARIABLE: &str = "AWS_PROFILE";

/// The client of a URL.
pub(super) fn store(url: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
    match url.scheme {
        Scheme::S3 => s3(url),
        Scheme::Google => google(url),
        Scheme::Azure => azure(url),
        Scheme::File => Err(url.fault("a folder is no object store")),
    }
}

fn s3(url: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&url.bucket)
        .with_retry(retry())
        .with_client_options(client(url)?);
    if let Some(region) = url.option("region") {
        builder = builder.with_region(region);
    }
    let path_style = match url.option("path-style") {
        None => true,
        Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(url.fault("path-style is true or false")),
    };
    builder = builder.with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = url.option("endpoint") {
        let endpoint = endpoint.trim_end_matches('/');
        builder = builder.with_endpoint(match (path_style, endpoint.split_once("://")) {
            (false, Some((scheme, host))) => format!("{scheme}://{}.{host}", url.bucket),
            _ => endpoint.to_owned(),
        });
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let file =
        url.option("credentials").map(str::to_owned).or_else(|| variable(CREDENTIALS_VARIABLE));
    if let Some(file) = file {
        let profile =
            url.option("profile").map(str::to_owned).or_else(|| variable(PROFILE_VARIABLE));
        let profile = profile.unwrap_or_else(|| "default".to_owned());
        let text = read(url, &file)?;
        let found = section(&text, &profile);
        let (Some(id), Some(secret)) =
            (found.get("aws_access_key_id"), found.get("aws_secret_access_key"))
        else {
            return Err(url.fault(format!(
                "{file} has no aws_access_key_id and aws_secret_access_key in a section [{profile}]"
            )));
        };
        builder = builder.with_access_key_id(*id).with_secret_access_key(*secret);
        if let Some(token) = found.get("aws_session_token") {
            builder = builder.with_token(*token);
        }
    }
    built(url, builder.build())
}

fn google(url: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&url.bucket)
        .with_retry(retry())
        .with_client_options(client(url)?);
    if let Some(endpoint) = url.option("endpoint") {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    if let Some(file) = url.option("credentials") {
        builder = builder.with_service_account_path(file);
    }
    built(url, builder.build())
}

fn azure(url: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&url.bucket)
        .with_retry(retry())
        .with_client_options(client(url)?);
    if let Some(account) = url.option("account") {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = url.option("endpoint") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    built(url, builder.build())
}

fn built<S: ObjectStore>(
    url: &Url,
    built: object_store::Result<S>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    Ok(Arc::new(built.map_err(|error| url.fault(error.to_string()))?))
}

fn retry() -> RetryConfig {
    let (init_backoff, max_backoff) = BACKOFF;
    let backoff = BackoffConfig { init_backoff, max_backoff, base: 2.0 };
    RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIME_MAX }
}

fn client(url: &Url) -> Result<ClientOptions, Error> {
    let is_plain = url.option("endpoint").is_some_and(|it| it.starts_with("http://"));
    let mut options = ClientOptions::new()
        .with_connect_timeout(CONNECT_MAX)
        .with_timeout(REQUEST_MAX)
        // Only where the URL says so itself.
        .with_allow_http(is_plain);
    if let Some(file) = url.option("ca") {
        let pem = read(url, file)?;
        let certificates = Certificate::from_pem_bundle(pem.as_bytes());
        let certificates = certificates.map_err(|error| url.fault(format!("{file}: {error}")))?;
        if certificates.is_empty() {
            return Err(url.fault(format!("{file} has no certificate in PEM form")));
        }
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn read(url: &Url, file: &str) -> Result<String, Error> {
    let fault = |reason: String| url.fault(format!("{file}: {reason}"));
    let len = std::fs::metadata(file).map_err(|error| fault(error.to_string()))?.len();
    if len > FILE_BYTES_MAX {
        return Err(fault(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))
}

/// The entries of a section of a file in AWS's form.
fn section<'a>(text: &'a str, name: &str) -> BTreeMap<&'a str, &'a str> {
    let mut is_in = false;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_in = title.trim() == name;
        } else if is_in
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            found.insert(key.trim(), value.trim());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn one_section_of_a_file_counts() {
        let text = "[default]\naws_access_key_id = A\n# x = y\naws_secret_access_key=B==\n[other]\n\
                    aws_access_key_id = C\n";
        let found = section(text, "default");
        assert_eq!(found.get("aws_access_key_id"), Some(&"A"));
        assert_eq!(found.get("aws_secret_access_key"), Some(&"B=="));
        assert_eq!(found.len(), 2);
        assert_eq!(section(text, "other").len(), 1);
        assert!(section(text, "third").is_empty());
    }
}
