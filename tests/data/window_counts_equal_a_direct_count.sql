-- The windows are exact: at a sample of instants, what the macro's running sums say equals a
-- direct count of the events known in the window. 200 instants per airport, spread by a hash.
with instants as (
    select
        origin,
        known_at,
    from {{ ref('airport_state') }}
    where {{ untested('known_at') }}
    qualify row_number() over (partition by origin order by hash(known_at)) <= 200
),

expected as (
    select
        instants.origin,
        instants.known_at,
        count(departures.flight_id) as departures_3h,
        avg(departures.departure_delay_min) as departure_delay_mean_3h_min,
    from instants
    left join {{ ref('int_departures') }} as departures
        on
            instants.origin = departures.origin
            and instants.known_at >= departures.known_at
            and instants.known_at - interval 3 hours < departures.known_at
    group by all
)

select
    expected.*,
    state.origin_departures_3h,
    state.origin_departure_delay_mean_3h_min,
from expected
inner join {{ ref('airport_state') }} as state
    on expected.origin = state.origin and expected.known_at = state.known_at
where
    expected.departures_3h != state.origin_departures_3h
    or abs(
        expected.departure_delay_mean_3h_min - state.origin_departure_delay_mean_3h_min
    ) > 1e-9
