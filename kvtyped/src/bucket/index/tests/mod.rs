//! Exhaustive tests of the protocols: every interleaving of a few processes over the real state machines.
//!
//! A process may stop after each step, because each state is checked whether its processes continue or not. Each broken
//! rule is a change of the store or of the replies ([`Mutant`](model::Mutant)), never of the state machines.

mod action;
mod build;
mod dropped;
mod drops;
mod entries;
mod explore;
mod follow;
mod followers;
mod model;
mod step;
mod unique;
