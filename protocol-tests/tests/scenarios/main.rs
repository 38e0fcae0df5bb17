//! What a program can expect of carafe, as scenarios over its public items. Each runs on the embedded cluster, on real
//! sockets, and once more on the cluster that `CARAFE_TEST_BOOTSTRAP` names. `simulation` runs one workload under faults
//! drawn from seeds.

/// Makes each of the async functions two tests.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::stage::on_embedded(super::$name).await;
            })*
        }

        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::stage::on_kafka(super::$name).await;
            })*
        }
    };
}

mod admin;
mod app;
mod callbacks;
mod commands;
mod conditions;
mod consume;
mod endings;
mod groups;
mod handlers;
mod letters;
mod play;
mod policies;
mod produce;
mod sasl;
mod simulation;
mod stage;
mod supervision;
mod told;
mod transaction_codes;
mod transactions;
