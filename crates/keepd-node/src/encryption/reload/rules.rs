//! Changes of a new configuration for values that are written from now on, in words for the log.
//! They name keys and never hold a secret.

use keepd_crypto::{RuleStatus, Scope};

/// Every rule with what it writes under: `secrets: secretbox:key1, *.*: plain`.
pub(super) fn describe(rules: &[RuleStatus]) -> String {
    let rule =
        |rule: &RuleStatus| format!("{}: {}", rule.scope, sealing_key(rule).unwrap_or("plain"));
    rules.iter().map(rule).collect::<Vec<_>>().join(", ")
}

fn sealing_key(rule: &RuleStatus) -> Option<&str> {
    rule.sealing_key.as_ref().map(|(_, name)| name.as_str())
}

/// The scopes whose values were sealed and are written plain from now on.
pub(super) fn no_longer_sealed(before: &[RuleStatus], after: &[RuleStatus]) -> Vec<String> {
    let was_sealed = before.iter().filter(|rule| sealing_key(rule).is_some());
    let lost = was_sealed.filter(|rule| !is_sealed(&rule.scope, after));
    lost.map(|rule| rule.scope.clone()).collect()
}

/// Whether the rule that covers all of a scope seals: its own, or the next wider one.
fn is_sealed(scope: &str, rules: &[RuleStatus]) -> bool {
    let own = rules.iter().find(|rule| rule.scope == scope);
    let covering = own.or_else(|| {
        let wider = |found: &&RuleStatus| covers(&Scope::parse(&found.scope), &Scope::parse(scope));
        // Rules come in the order in which they are looked up.
        rules.iter().find(wider)
    });
    covering.and_then(sealing_key).is_some()
}

/// Whether a wider scope takes over what a removed one covered. Keys of resources lie below
/// prefixes too, but where depends on the key; only the prefix of all keys covers them for sure.
fn covers(wide: &Scope, narrow: &Scope) -> bool {
    match (wide, narrow) {
        (Scope::KeyPrefix(wide), Scope::KeyPrefix(narrow)) => narrow.starts_with(wide.as_str()),
        (Scope::KeyPrefix(wide), _) => wide.is_empty(),
        (Scope::AllResources, Scope::Resource { .. } | Scope::Group(_)) => true,
        (Scope::Group(wide), Scope::Resource { group, .. }) => wide == group,
        (Scope::AllResources | Scope::Group(_) | Scope::Resource { .. }, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use keepd_types::KeyId;

    use super::*;

    fn rules(list: &[(&str, &str)]) -> Vec<RuleStatus> {
        let rule = |(scope, key): &(&str, &str)| RuleStatus {
            scope: (*scope).to_owned(),
            sealing_key: (*key != "plain").then(|| (KeyId(1), (*key).to_owned())),
        };
        list.iter().map(rule).collect()
    }

    fn check(before: &[(&str, &str)], after: &[(&str, &str)], expected: &[&str]) {
        assert_eq!(no_longer_sealed(&rules(before), &rules(after)), expected, "{after:?}");
    }

    #[test]
    fn what_was_sealed_and_is_not_any_more_is_named() {
        let sealed = [("secrets", "aesgcm:a"), ("*.apps", "aesgcm:a"), ("prefix:/x/", "aesgcm:a")];
        check(&sealed, &sealed, &[]);
        check(&sealed, &[("secrets", "secretbox:b"), sealed[1], sealed[2]], &[]);
        check(&sealed, &[("secrets", "plain"), sealed[1], sealed[2]], &["secrets"]);
        check(&sealed, &[("*.*", "aesgcm:a")], &["prefix:/x/"]);
        check(&sealed, &[("*.*", "plain"), ("prefix:", "aesgcm:a")], &["secrets", "*.apps"]);
        check(&sealed, &[("prefix:", "aesgcm:a")], &[]);
        check(&sealed, &[], &["secrets", "*.apps", "prefix:/x/"]);
        check(&[("pods", "plain")], &[], &[]);
    }

    #[test]
    fn rules_are_told_with_the_names_of_keys() {
        let rules = rules(&[("secrets", "secretbox:key1"), ("*.*", "plain")]);
        assert_eq!(describe(&rules), "secrets: secretbox:key1, *.*: plain");
    }
}
