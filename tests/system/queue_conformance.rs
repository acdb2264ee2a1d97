//! Every implementation of the queue keeps every promise of its trait.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backpack::queue::Queue;

/// The queue of the simulation, so that what is simulated is what the others promise.
struct Simulated(Arc<crate::simulation_queue::MemoryQueue>);

#[async_trait]
impl crate::queue_cases::Backend for Simulated {
    fn start(lease: Duration) -> Self {
        Self(Arc::new(crate::simulation_queue::MemoryQueue::new(lease)))
    }

    fn open(&self) -> Arc<dyn Queue> {
        self.0.clone()
    }

    /// It stands for servers that keep what they have.
    fn crash(&mut self) {}

    async fn poison(&self, target: &str, raw: &str) {
        self.0.put_raw(&crate::queue_cases::id(target), raw);
    }
}

/// Puts one backend through all cases.
macro_rules! conformance {
    ($name:ident, $backend:ty: $($module:ident::{$($case:ident),* $(,)?})*) => {
        mod $name {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::queue_cases::$module::$case::<$backend>().await;
                }
            )*)*
        }
    };
    ($($name:ident: $backend:ty,)*) => {
        $(conformance! { $name, $backend:
            tasks::{
                pushed_tasks_come_back_whole_and_the_oldest_first,
                pushes_in_turn_come_back_in_turn,
                what_was_pushed_survives_a_crash,
                a_waiting_claim_gets_a_task_soon_after_the_push,
                an_empty_queue_is_waited_for_and_no_longer,
                a_delayed_task_waits_for_its_time,
                a_task_that_waits_already_comes_at_the_earlier_time,
                a_delayed_task_can_be_taken_back,
                no_more_than_wanted_and_no_target_starves,
                no_more_of_a_target_than_wanted,
                targets_not_wanted_are_left_out,
                a_paused_target_gives_out_nothing_until_resumed,
                two_versions_of_a_key_are_two_tasks,
                keys_come_back_byte_for_byte,
                stats_and_lists_follow_each_step,
            }
            claims::{
                an_acked_task_is_gone,
                a_retry_leaves_the_claim_waits_and_counts,
                a_release_counts_no_attempt,
                a_claim_whose_lease_ended_comes_back_to_others,
                renewal_keeps_a_claim,
                an_end_after_the_lease_loses_nothing,
                many_claimants_drain_each_task_once,
                random_work_loses_nothing,
            }
            letters::{
                a_buried_task_keeps_what_happened,
                a_redriven_task_starts_anew,
                letters_are_chosen_by_target_key_and_id,
                a_task_that_dies_twice_is_one_letter,
                poison_dies_by_itself_and_stops_nobody,
                thousands_of_letters_are_redriven_and_discarded,
            }
        })*
    };
}

conformance! {
    one_redis: crate::queue_cases::backend::OneRedis,
    embedded: crate::queue_cases::backend::Embedded,
    two_redis: crate::queue_cases::backend::TwoRedis,
    followed: crate::queue_cases::backend::Followed,
    simulated: crate::queue_conformance::Simulated,
}
