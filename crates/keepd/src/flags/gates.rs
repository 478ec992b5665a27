//! Feature gates: `--feature-gates A=true,B=false`.

use std::collections::BTreeMap;

use keepd_gotext::parse_bool;

/// The maturity of a feature, in etcd's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GateStage {
    /// Off unless asked for.
    Alpha,
    /// On unless turned off.
    Beta,
}

/// Every gate of etcd 3.7.1 with its stage; beta gates are on by default.
const GATES: [(&str, GateStage); 9] = [
    ("CompactHashCheck", GateStage::Alpha),
    ("FastLeaseKeepAlive", GateStage::Beta),
    ("InitialCorruptCheck", GateStage::Alpha),
    ("LeaseCheckpoint", GateStage::Alpha),
    ("LeaseCheckpointPersist", GateStage::Alpha),
    ("PriorityRequest", GateStage::Alpha),
    ("SetMemberLocalAddr", GateStage::Alpha),
    ("StopGRPCServiceOnDefrag", GateStage::Alpha),
    ("TxnModeWriteWithSharedBuffer", GateStage::Beta),
];

/// The gates that have no effect in keepd, and why.
const WITHOUT_EFFECT: [(&str, &str); 6] = [
    ("FastLeaseKeepAlive", "a renewal waits for the log only if that has a shorter time recorded"),
    ("LeaseCheckpoint", "what a lease has left is always recorded"),
    ("LeaseCheckpointPersist", "what a lease has left is always recorded"),
    ("PriorityRequest", "requests are admitted in the order in which they come"),
    ("StopGRPCServiceOnDefrag", "a defragmentation holds up no request"),
    ("TxnModeWriteWithSharedBuffer", "the store has no such buffer"),
];

/// The features that are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FeatureGates(BTreeMap<&'static str, bool>);

impl FeatureGates {
    /// Reads a comma-separated list of `name=bool`; the error is etcd's.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut set = BTreeMap::new();
        let mut stages = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            let (name, value) = (name.trim(), value.trim());
            if !item.contains('=') {
                return Err(format!("missing bool value for {name}"));
            }
            let value = parse_bool(value)
                .map_err(|error| format!("invalid value of {name}={value}, err: {error}"))?;
            match name {
                "AllAlpha" => stages.push((GateStage::Alpha, value)),
                "AllBeta" => stages.push((GateStage::Beta, value)),
                _ => {
                    let Some((known, _)) = GATES.iter().find(|(known, _)| *known == name) else {
                        return Err(format!("unrecognized feature gate: {name}"));
                    };
                    set.insert(*known, value);
                }
            }
        }
        for (stage, value) in stages {
            for (name, _) in GATES.iter().filter(|(_, of)| *of == stage) {
                set.entry(name).or_insert(value);
            }
        }
        Ok(Self(set))
    }

    /// The gates that were set and have no effect, with the reason.
    pub(super) fn without_effect(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        WITHOUT_EFFECT.into_iter().filter(move |(name, _)| self.0.contains_key(name))
    }

    /// Every gate with its stage and whether it is on, for the metrics.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        GATES.iter().map(move |(name, stage)| {
            let stage = match stage {
                GateStage::Alpha => "ALPHA",
                GateStage::Beta => "BETA",
            };
            (*name, stage, self.is_enabled(name))
        })
    }

    /// Whether a feature is on; unknown ones are off.
    #[must_use]
    pub(super) fn is_enabled(&self, name: &str) -> bool {
        let default =
            GATES.iter().any(|(known, stage)| *known == name && *stage == GateStage::Beta);
        self.0.get(name).copied().unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_have_defaults_and_groups() {
        let none = FeatureGates::parse("").unwrap();
        assert!(none.is_enabled("FastLeaseKeepAlive") && !none.is_enabled("InitialCorruptCheck"));
        let some = FeatureGates::parse("AllAlpha=true,LeaseCheckpoint=false,AllBeta=0").unwrap();
        assert!(some.is_enabled("InitialCorruptCheck") && !some.is_enabled("LeaseCheckpoint"));
        assert!(!some.is_enabled("FastLeaseKeepAlive"));
        let told: Vec<_> = some.without_effect().map(|(name, _)| name).collect();
        assert!(told.contains(&"LeaseCheckpoint") && !told.contains(&"InitialCorruptCheck"));
        assert_eq!(none.without_effect().count(), 0);
        assert!(some.all().any(|gate| gate == ("InitialCorruptCheck", "ALPHA", true)));
    }
}
