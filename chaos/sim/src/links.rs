//! The links that faults cut. Several may cut the same one: it works again once all of them are over.

use std::collections::BTreeMap;
use turmoil::Sim;

/// From one machine to another.
pub(crate) type Way = (String, String);

/// See the module.
#[derive(Default)]
pub(crate) struct Links {
    /// By how many faults each is cut, if by any.
    cut: BTreeMap<Way, u32>,
}

impl Links {
    /// Nothing gets through on these any more.
    pub(crate) fn cut(&mut self, sim: &mut Sim<'_>, ways: Vec<Way>) {
        for (from, to) in ways {
            let faults = self.cut.entry((from.clone(), to.clone())).or_default();
            *faults += 1;
            if *faults == 1 {
                sim.partition_oneway(from, to);
            }
        }
    }

    /// One of the faults that cut these is over.
    pub(crate) fn mend(&mut self, sim: &mut Sim<'_>, ways: Vec<Way>) {
        for way in ways {
            let Some(faults) = self.cut.get_mut(&way) else { continue };
            *faults -= 1;
            if *faults == 0 {
                self.cut.remove(&way);
                sim.repair_oneway(way.0, way.1);
            }
        }
    }
}
