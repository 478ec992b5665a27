//! The members that the flags name, and etcd's checks of them.

use std::collections::BTreeMap;

use keepd_member::{ClusterError, InitialCluster, check_advertised};

use super::options::{ClusterState, ServerOptions};

impl ServerOptions {
    /// The members that the flags name, with the ids that a new cluster would give them.
    ///
    /// # Errors
    /// If the local member is not one of them, it advertises other URLs as one of the first, or two
    /// members share a URL.
    pub(crate) fn members(&self) -> Result<InitialCluster, ClusterError> {
        let mut urls_by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, url) in &self.initial_cluster {
            urls_by_name.entry(name.clone()).or_default().push(url.clone());
        }
        let own = urls_by_name.get(&self.name);
        let own = own.ok_or_else(|| ClusterError::NoLocalName(self.name.clone()))?;
        // The URLs of one that joins were told to the cluster before.
        if self.initial_cluster_state == ClusterState::New {
            let advertised = self.initial_advertise_peer_urls.iter().map(ToString::to_string);
            check_advertised(&self.name, &sorted(own), &sorted(&advertised.collect::<Vec<_>>()))?;
        }
        InitialCluster::new(&self.name, urls_by_name, &self.initial_cluster_token)
    }
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort_unstable();
    urls.dedup();
    urls
}
