//! C10. A crash at every point between two persisted or exchanged facts.

use kiln_firstboot::fault::Point;
use kiln_tests::cluster::{Cluster, PATIENCE};
use kiln_tests::node::Node;
use kiln_tests::wait::until;

/// In the order in which forming, and joining what was formed, reaches them. A cut at a later one makes some of the earlier ones be
/// passed again, uncut.
const FORMING: [Point; 19] = [
    Point::StateWritten,
    Point::StateRenamed,
    Point::Founding,
    Point::Rendered,
    Point::PermitSpent,
    Point::StartedEmpty,
    Point::LineageRecorded,
    Point::GrantLocked,
    Point::GrantAdded,
    // The caller asks again, and the learner that nobody told it of goes.
    Point::GrantRemoved,
    Point::GrantRecorded,
    Point::Granted,
    Point::Assigned,
    Point::Attempted,
    Point::Cleared,
    Point::Promoted,
    Point::Complete,
    Point::Activated,
    Point::ActivationSeen,
];
/// The end of the founder's special start on etcd 3.5. A founder that lost power on the way is not started specially again, so these
/// are reached by one formation each.
const SETTLING: [Point; 2] = [Point::LeadershipMoved, Point::Settled];

/// Cuts whoever reaches `points`, one after the other, from the first power on to the activation.
fn form_while_cut_at(cluster: &mut Cluster, points: &[Point], takes_etcd: bool) {
    for node in &mut cluster.nodes {
        let (name, file) = node.cut_file();
        node.set_faults(&[(name, &file)]);
        node.set_cut_takes_etcd(takes_etcd);
        node.arm(points.first().copied());
    }
    cluster.power_on();
    for (point, next) in points.iter().zip(points.iter().skip(1).map(Some).chain([None])) {
        until(
            &format!("somebody to reach {point:?}"),
            PATIENCE,
            || cluster.nodes.iter().any(Node::was_cut).then_some(()),
            || cluster.story(),
        );
        cluster.nodes.iter().for_each(|node| node.arm(next.copied()));
        cluster.nodes.iter_mut().filter(|node| node.was_cut()).for_each(Node::revive);
    }
    cluster.wait_activated();
    cluster.assert_one_cluster();
}

/// C10: the agent alone crashes at every point; systemd starts it again.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn c10_agents_that_crash_at_every_point_give_each_member_one_id() {
    let points = [&FORMING[..], &SETTLING].concat();
    assert!(Point::ALL.iter().all(|point| points.contains(point)), "every point is tried");
    form_while_cut_at(&mut Cluster::new(3), &points, false);
}

/// C10: power is lost at every point, agent and etcd in the same instant.
#[test]
#[ignore = "needs root, etcd and dnsmasq"]
fn c10_power_lost_at_every_point_leaves_each_member_one_id() {
    let mut cluster = Cluster::new(3);
    form_while_cut_at(&mut cluster, &FORMING, true);
    for point in SETTLING {
        cluster.power_off();
        cluster.nodes.iter().for_each(Node::wipe);
        form_while_cut_at(&mut cluster, &[point], true);
    }
}
