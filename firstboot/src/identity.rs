//! Is this node who its seed says it is? By PTR of one of its addresses, confirmed forward, within the charter.
//!
//! DNS only locates: the seed's issuer authenticates and the charter authorizes. But a node that its peers cannot find by name,
//! or that DNS calls by another's name, must not enter a cluster under a name that will not hold.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;

use crate::charter::Charter;
use crate::name::Fqdn;
use crate::observation::{Lookup, OwnAddress, OwnName};
use crate::refusal::Refusal;
use crate::wait::WaitReason;

/// The addresses at which this node is `expected`, by PTR and by A or AAAA, and which the charter gives it.
///
/// One such address is enough; an address whose PTR names no member (a management network) is left alone. Spelling does not
/// matter: names are compared in canonical form.
///
/// # Errors
/// Outer: a PTR that gives an address of this node to somebody else. Inner: something that is missing or could not be asked.
pub fn confirm(own: &OwnName, charter: &Charter, expected: &Fqdn) -> Result<Result<Vec<IpAddr>, WaitReason>, Refusal> {
    if own.addresses.is_empty() {
        return Ok(Err(WaitReason::NoAddress));
    }
    let is_named = |own: &OwnAddress| own.ptr.records().iter().any(|name| is(name, expected));
    let wrong = |own: &OwnAddress| Refusal::PtrWrong {
        address: own.address,
        names: own.ptr.records().to_vec(),
        expected: expected.clone(),
    };
    // A name of another member on any address is somebody's mistake that etcd would meet later, whatever other addresses say.
    let other_member = |own: &OwnAddress| {
        own.ptr.records().iter().any(|name| charter.members.iter().any(|m| m.fqdn != *expected && is(name, &m.fqdn)))
    };
    if let Some(own) = own.addresses.iter().find(|a| !is_named(a) && other_member(a)) {
        return Err(wrong(own));
    }
    let named: Vec<IpAddr> = own.addresses.iter().filter(|a| is_named(a)).map(|a| a.address).collect();
    let Some(first) = named.first() else {
        // Where one of the charter's addresses is up, the others (a management network) have nothing to say.
        let chartered = |a: &&OwnAddress| charter.member(expected).is_some_and(|m| m.addresses.contains(&a.address));
        let mut asked: Vec<&OwnAddress> = own.addresses.iter().filter(chartered).collect();
        if asked.is_empty() {
            asked = own.addresses.iter().collect();
        }
        if let Some(own) = asked.iter().find(|a| !a.ptr.records().is_empty()) {
            return Err(wrong(own));
        }
        let failed = asked.iter().find_map(|a| match &a.ptr {
            Lookup::Failed(error) => Some(WaitReason::PtrFailed { address: a.address, error: error.clone() }),
            Lookup::None | Lookup::Found(_) => None,
        });
        let addresses = asked.iter().map(|a| a.address).collect();
        return Ok(Err(failed.unwrap_or(WaitReason::PtrMissing { addresses, expected: expected.clone() })));
    };
    let forward = match &own.forward {
        Lookup::Found(addresses) => addresses,
        Lookup::None => return Ok(Err(WaitReason::ForwardMissing { fqdn: expected.clone(), address: *first })),
        Lookup::Failed(error) => {
            return Ok(Err(WaitReason::ForwardFailed { fqdn: expected.clone(), error: error.clone() }));
        }
    };
    let confirmed: Vec<IpAddr> = named.iter().copied().filter(|a| forward.contains(a)).collect();
    let Some(address) = confirmed.first() else {
        let reason = WaitReason::ForwardDiffers { fqdn: expected.clone(), address: *first, found: forward.clone() };
        return Ok(Err(reason));
    };
    let chartered = charter.member(expected).map(|m| m.addresses.clone()).unwrap_or_default();
    let agreed: Vec<IpAddr> = confirmed.iter().copied().filter(|a| chartered.contains(a)).collect();
    if agreed.is_empty() {
        return Ok(Err(WaitReason::AddressNotInCharter { address: *address, charter: chartered }));
    }
    Ok(Ok(agreed))
}

/// Whether DNS's spelling `name` is `fqdn`. What is no host name is nobody's.
fn is(name: &str, fqdn: &Fqdn) -> bool {
    Fqdn::parse(name).is_ok_and(|parsed| parsed == *fqdn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{address, charter, fqdn};

    fn confirm_with(
        addresses: &[(u8, Lookup<String>)],
        forward: Lookup<IpAddr>,
    ) -> Result<Result<Vec<IpAddr>, WaitReason>, Refusal> {
        let addresses =
            addresses.iter().map(|(n, ptr)| OwnAddress { address: address(*n), ptr: ptr.clone() }).collect();
        confirm(&OwnName { addresses, forward }, &charter(3), &fqdn(1))
    }

    fn names(list: &[&str]) -> Lookup<String> {
        Lookup::Found(list.iter().map(ToString::to_string).collect())
    }

    fn found(n: u8) -> Lookup<IpAddr> {
        Lookup::Found(vec![address(n)])
    }

    #[test]
    fn takes_any_spelling_and_one_name_of_several() {
        for ptr in [names(&["Etcd1.LAB.example."]), names(&["old.example", "etcd1.lab.example"])] {
            assert_eq!(confirm_with(&[(1, ptr)], found(1)), Ok(Ok(vec![address(1)])));
        }
    }

    #[test]
    fn says_what_to_mend() {
        let own = || names(&["etcd1.lab.example"]);
        let waits = |addresses: &[(u8, Lookup<String>)], forward, expected: WaitReason, mend: &str| {
            assert_eq!(confirm_with(addresses, forward), Ok(Err(expected.clone())));
            let why = expected.explain();
            assert!(why.hint.contains(mend), "{why:?}");
        };
        waits(&[], found(1), WaitReason::NoAddress, "DHCP");
        waits(
            &[(1, Lookup::None)],
            found(1),
            WaitReason::PtrMissing { addresses: vec![address(1)], expected: fqdn(1) },
            "add a PTR record from 10.0.0.1 to etcd1.lab.example",
        );
        let error = || "10.0.0.254: SERVFAIL".to_owned();
        waits(
            &[(1, Lookup::Failed(error()))],
            found(1),
            WaitReason::PtrFailed { address: address(1), error: error() },
            "DNS servers",
        );
        waits(
            &[(1, own())],
            Lookup::None,
            WaitReason::ForwardMissing { fqdn: fqdn(1), address: address(1) },
            "etcd1.lab.example 10.0.0.1",
        );
        waits(
            &[(1, own())],
            Lookup::Failed(error()),
            WaitReason::ForwardFailed { fqdn: fqdn(1), error: error() },
            "DNS servers",
        );
        waits(
            &[(1, own())],
            found(2),
            WaitReason::ForwardDiffers { fqdn: fqdn(1), address: address(1), found: vec![address(2)] },
            "make the address record of etcd1.lab.example say 10.0.0.1",
        );
        waits(
            &[(9, own())],
            found(9),
            WaitReason::AddressNotInCharter { address: address(9), charter: vec![address(1)] },
            "10.0.0.1",
        );
    }

    #[test]
    fn leaves_a_management_network_alone_but_not_another_members_name() {
        let own = || (1, names(&["etcd1.lab.example"]));
        let management = || (200, names(&["host7.mgmt.example"]));
        assert_eq!(confirm_with(&[management(), own()], found(1)), Ok(Ok(vec![address(1)])));
        assert_eq!(
            confirm_with(&[management(), (1, Lookup::None)], found(1)),
            Ok(Err(WaitReason::PtrMissing { addresses: vec![address(1)], expected: fqdn(1) }))
        );
        let stolen = (200, names(&["etcd2.lab.example"]));
        assert!(matches!(
            confirm_with(&[own(), stolen], found(1)),
            Err(Refusal::PtrWrong { address: wrong, .. }) if wrong == address(200)
        ));
    }
}
