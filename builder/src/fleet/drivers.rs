//! The drivers of a cluster's hosts.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::Hosts;
use crate::host::{self, Host};
use crate::profile::{self, Profile};
use crate::reach::{Endpoint, Reach};

/// A driver for every host that is reached by one; for those whose driver could not be had, why. Asks no host anything.
pub fn open(profile: &Profile, reach: &Reach) -> (Hosts, BTreeMap<String, String>) {
    let (mut hosts, mut broken) = (Hosts::new(), BTreeMap::new());
    for (name, endpoint) in &reach.hosts {
        match driver(profile, name, endpoint) {
            Ok(host) => drop(hosts.insert(name.clone(), host)),
            Err(error) => drop(broken.insert(name.clone(), format!("{error:#}"))),
        }
    }
    (hosts, broken)
}

/// The driver of a host of the profile, which is found where `endpoint` says.
fn driver(profile: &Profile, name: &str, endpoint: &Endpoint) -> Result<Box<dyn Host>> {
    let described = profile.hosts.iter().find(|host| host.name == name);
    let described = described.with_context(|| format!("the profile has no host `{name}`"))?.clone();
    host::open(&profile::Host { kind: endpoint.kind.clone(), endpoint: Some(endpoint.uri.clone()), ..described })
}
