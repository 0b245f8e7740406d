//! The contract with the homeserver: the same cases run against the fake one and a real Synapse. Each action is done from a state,
//! and a full read afterwards must equal what `Observed::simulate` says; refusals must be classified alike.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must end")]

mod cases;
mod figures;
mod ground;

use std::time::Duration;

use ground::Ground;
use usher::matrix::Promotion;
use usher::plan::{Action, RoomRef, StateChange};

/// The whole list, in order: some cases build on the bot and the admin of the first.
async fn all(ground: &Ground) {
    cases::identity::the_bot_registers_and_rises_from_rung_to_rung(ground).await;
    cases::identity::puppets_are_ordinary_people_only(ground).await;
    cases::rooms::creations_look_as_simulated(ground).await;
    cases::rooms::a_repeated_creation_finds_the_first(ground).await;
    cases::rooms::a_creation_whose_answer_was_lost_is_found(ground).await;
    cases::rooms::a_half_made_room_is_found_and_completed(ground).await;
    cases::rooms::a_squatted_alias_is_stale_until_dropped(ground).await;
    cases::rooms::an_alias_to_debris_is_stale_until_dropped(ground).await;
    cases::rooms::state_changes_look_as_simulated(ground).await;
    cases::rooms::equal_state_is_the_same_event(ground).await;
    cases::rooms::power_levels_look_as_simulated(ground).await;
    cases::rooms::levels_that_changed_meanwhile_are_not_written_over(ground).await;
    cases::rooms::a_room_that_was_left_is_gone(ground).await;
    cases::members::memberships_look_as_simulated(ground).await;
    cases::members::refusals_are_classified(ground).await;
    cases::members::joins_need_the_bot_in_the_room_and_admin(ground).await;
    cases::power::a_room_outside_is_seen_entered_and_taken(ground).await;
    cases::power::a_room_of_version_12_gives_power_and_keeps_its_creator(ground).await;
    cases::power::puppets_do_what_the_bot_cannot(ground).await;
    cases::power::what_makes_a_room_ours_is_taken_back(ground).await;
    cases::power::a_new_id_takes_the_fence_along(ground).await;
    cases::adoption::an_adopted_room_is_marked_and_fenced(ground).await;
    cases::adoption::invitations_are_listed(ground).await;
    cases::adoption::a_room_of_another_usher_is_known_as_such(ground).await;
    cases::upgrades::an_upgraded_space_takes_its_fence_and_its_links_along(ground).await;
    cases::upgrades::a_room_with_nobody_in_it_is_told_from_one_that_is_closed(ground).await;
    cases::accounts::an_account_is_locked_and_its_old_session_comes_back(ground).await;
    cases::accounts::protected_accounts_are_refused_by_the_hand(ground).await;
    cases::accounts::an_erased_account_is_out_of_every_room_and_stays_so(ground).await;
    cases::accounts::what_a_leaver_leaves_behind_is_handed_over_and_turned_down(ground).await;
    cases::accounts::only_differences_of_attributes_are_written(ground).await;
    cases::accounts::what_usher_gave_is_taken_back_and_nothing_else(ground).await;
    cases::accounts::an_address_of_another_account_is_never_moved(ground).await;
    cases::accounts::an_avatar_takes_the_place_it_was_planned_for_and_no_other(ground).await;
    cases::accounts::leavers_are_mirrored_in_the_bots_account_data(ground).await;
    cases::members::an_unknown_token_is_fatal(ground).await;
    cases::reads::a_full_read_stays_within_its_budget(ground).await;
    cases::reads::accounts_are_found_by_every_way(ground).await;
    cases::reads::writes_are_never_repeated_and_waits_are_kept(ground).await;
    cases::feed::the_feed_tells_what_happened(ground).await;
    cases::feed::what_the_feed_leaves_out_is_a_gap(ground).await;
    cases::feed::an_unknown_position_asks_for_a_full_read(ground).await;
}

#[tokio::test]
async fn the_real_synapse_keeps_the_contract() {
    all(&Ground::synapse().await).await;
}

#[tokio::test]
async fn the_stream_survives_a_synapse_that_was_killed_and_stopped() {
    let mut ground = Ground::synapse().await;
    ground.homeserver.ensure_users().await.unwrap();
    let room = ground.space("survivor").await;
    let position = ground.homeserver.next_batch(None, Duration::ZERO).await.unwrap().position;
    let rename = |name: &str| StateChange::Name(name.to_owned());
    for name in ["one", "two", "three"] {
        ground.perform(&Action::SetState { room: RoomRef::Id(room.clone()), state: rename(name) }).await;
    }
    ground.kill_and_restart().await;
    ground.perform(&Action::SetState { room: RoomRef::Id(room.clone()), state: rename("four") }).await;
    ground.stop_and_restart().await;
    let batch = ground.homeserver.next_batch(Some(&position), Duration::from_secs(5)).await.unwrap();
    assert!(!batch.reread);
    let names = batch.events.iter().filter(|(place, event)| *place == room && event.kind == "m.room.name");
    let names: Vec<_> = names.filter_map(|(_, event)| event.content["name"].as_str()).collect();
    assert!(names.ends_with(&["one", "two", "three", "four"]), "{names:?}");
}

#[tokio::test]
async fn a_long_user_list_is_read_in_pages_and_an_idle_poll_costs_three_requests() {
    let ground = Ground::fake().await;
    ground.homeserver.ensure_users().await.unwrap();
    let root = ground.admin().await;
    ground.homeserver.make_admin(&root.token.into(), Promotion::Sender).await.unwrap();
    ground.crowd("many", 2500);
    ground.space("one").await;
    ground.proxy.clear();
    let observed = ground.homeserver.full().await.unwrap();
    assert_eq!(observed.accounts.people.len(), 2503);
    assert_eq!(ground.proxy.count(), 1 + 1 + 1 + 3 + 1, "joined rooms, name, account data, pages, one room");

    let position = ground.homeserver.next_batch(None, Duration::ZERO).await.unwrap().position;
    ground.proxy.clear();
    assert!(ground.homeserver.next_batch(Some(&position), Duration::ZERO).await.unwrap().is_empty());
    let new = ground.homeserver.accounts_since(&observed.accounts).await.unwrap().unwrap();
    assert!(new.people.is_empty() && !new.gap);
    assert_eq!(ground.homeserver.admins().await.unwrap().unwrap().len(), 2);
    assert_eq!(ground.proxy.count(), 3);

    // More newcomers than one look shows.
    ground.crowd("late", 101);
    assert!(ground.homeserver.accounts_since(&observed.accounts).await.unwrap().unwrap().gap);
}

#[tokio::test]
async fn the_fake_homeserver_keeps_the_contract() {
    all(&Ground::fake().await).await;
}
