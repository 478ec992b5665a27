//! Tells the user when the server is ready, as a client sees it.

use std::io::Write as _;
use std::time::Duration;

use keepd_tls::{Authority, ClientTlsOptions};

use super::Place;
use crate::encryption::fetch;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints a line once every member answers that it is healthy, from a thread of its own: a lone server
/// is the same process and has not begun yet.
pub(super) fn tell(place: &Place) {
    let place = place.clone();
    // The thread ends with the process if the server never serves.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            runtime.block_on(wait(&place));
        }
    });
}

async fn wait(place: &Place) {
    let urls = place.client_urls();
    let mut healthy = 0;
    while healthy < urls.len() {
        tokio::time::sleep(PAUSE).await;
        let tls = ClientTlsOptions {
            trusted_ca_file: Some(place.pki().join("ca.crt")),
            cert_and_key_files: Some(Authority::paths(&place.pki(), "client")),
            ..ClientTlsOptions::default()
        };
        if fetch::get(&urls[healthy], "/health", tls).await.is_ok() {
            healthy += 1;
        }
    }
    // A closed standard output is no reason to disturb the server.
    let _unprintable = writeln!(std::io::stdout(), "Ready: {}", urls.join(","));
}
