//! The rules of a configuration, arranged for look-up by raw key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cipher::ProviderKey;
use crate::config::{EncryptionConfig, Provider};
use crate::resource::{Directories, KeyContent, Scope};
use keepd_types::KeyId;

/// Rule for one scope: the providers of every entry that names it, in order.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) scope: Scope,
    providers: Vec<Provider>,
    /// The key that seals new values; `None` if the first provider is identity.
    pub(super) sealing_key: Option<Arc<ProviderKey>>,
}

impl Rule {
    pub(super) fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// Whether plain values are read.
    pub(super) fn lists_identity(&self) -> bool {
        self.providers.iter().any(|provider| matches!(provider, Provider::Identity))
    }
}

/// The rules for the resources of one group.
#[derive(Debug, Default)]
struct Group {
    resources: BTreeMap<Box<[u8]>, Rule>,
    wildcard: Option<Rule>,
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    directories: Directories,
    groups: BTreeMap<Box<[u8]>, Group>,
    all_resources: Option<Rule>,
    /// Longest prefix first.
    prefixes: Vec<(Box<[u8]>, Rule)>,
}

impl Rules {
    pub(super) fn new(config: &EncryptionConfig, is_active: &dyn Fn(KeyId) -> bool) -> Self {
        let mut providers: BTreeMap<&Scope, Vec<Provider>> = BTreeMap::new();
        for rule in &config.rules {
            for scope in &rule.scopes {
                providers.entry(scope).or_default().extend(rule.providers.iter().cloned());
            }
        }
        let directories = config.options.directories.clone();
        let mut rules = Self { directories, ..Self::default() };
        for (scope, providers) in providers {
            let sealing_key = sealing_key(&providers, is_active);
            rules.insert(Rule { scope: scope.clone(), providers, sealing_key });
        }
        rules.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        rules
    }

    fn insert(&mut self, rule: Rule) {
        match rule.scope.clone() {
            Scope::Resource { group, resource } => {
                let group = self.groups.entry(group.into_bytes().into()).or_default();
                group.resources.insert(resource.into_bytes().into(), rule);
            }
            Scope::Group(group) => {
                self.groups.entry(group.into_bytes().into()).or_default().wildcard = Some(rule);
            }
            Scope::AllResources => self.all_resources = Some(rule),
            Scope::KeyPrefix(prefix) => self.prefixes.push((prefix.into_bytes().into(), rule)),
        }
    }

    /// The rule for a record's key.
    pub(super) fn find(&self, key: &[u8]) -> Option<&Rule> {
        let of_resource = match self.directories.content_of(key) {
            KeyContent::Resource { group, resource } => self
                .groups
                .get(group)
                .and_then(|group| group.resources.get(resource).or(group.wildcard.as_ref()))
                .or(self.all_resources.as_ref()),
            KeyContent::UnknownDirectory(directory) => self
                .groups
                .get(b"".as_slice())
                .and_then(|core| core.resources.get(directory))
                .or(self.all_resources.as_ref()),
            KeyContent::NoResource => None,
        };
        of_resource.or_else(|| {
            let covering = self.prefixes.iter().find(|(prefix, _)| key.starts_with(prefix));
            covering.map(|(_, rule)| rule)
        })
    }

    /// Every rule: by group and resource, then `*.*`, then prefixes, longest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rule> {
        self.groups
            .values()
            .flat_map(|group| group.resources.values().chain(&group.wildcard))
            .chain(&self.all_resources)
            .chain(self.prefixes.iter().map(|(_, rule)| rule))
    }
}

/// The key that a rule seals under.
fn sealing_key(
    providers: &[Provider],
    is_active: &dyn Fn(KeyId) -> bool,
) -> Option<Arc<ProviderKey>> {
    let Some(Provider::Keyed { keys: first, .. }) = providers.first() else { return None };
    let allowed = providers
        .iter()
        .filter_map(|provider| match provider {
            Provider::Keyed { keys, .. } => Some(keys),
            Provider::Identity => None,
        })
        .flatten()
        .find(|key| is_active(key.id()));
    allowed.or_else(|| first.first()).map(Arc::clone)
}
