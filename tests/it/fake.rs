//! Being built.
use crate::lab::synapse::Person;
pub struct Fake;
impl Fake {
    pub async fn start(_server: &str, _r: &[&usher::matrix::registration::Registration]) -> Self { Self }
    pub fn url(&self) -> String { String::new() }
    pub async fn register_admin(&self, _l: &str) -> Person { panic!() }
}
