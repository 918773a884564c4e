//! `make show-hosts`: the tutorial's six nodes on two hosts, deployed, reimaged, rolled out and back, cut and lost, with a client that writes. Prints
//! how long each act took; ends at the first thing that is not as promised.
#![expect(clippy::print_stdout, reason = "its output is the result")]

use kiln_tests::places::{Scratch, Seeding, tutorial};
use kiln_tests::show::Show;

fn main() {
    let scratch = Scratch::new(Seeding::Link);
    scratch.add_profile("k8s0", &tutorial());
    let mut show = Show::begin(scratch.places.clone(), "k8s0");
    show.deploy();
    show.reimage();
    show.roll_there_and_back();
    show.cut();
    show.lose_a_host();
    let acts = show.end();
    let all: f64 = acts.iter().map(|act| act.took.as_secs_f64()).sum();
    println!("{all:7.1} s  all of it");
}
