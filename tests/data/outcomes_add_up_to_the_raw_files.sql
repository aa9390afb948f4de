-- Totals tied back to the raw lines: one schedule line per flight of the spine, one arrival line
-- per label, one closing line per flight that was cancelled or diverted.
with told as (
    select
        count(distinct flight_id) filter (where record_kind = 'scheduled') as flights,
        count(distinct flight_id) filter (where record_kind = 'arrived') as completed,
        count(distinct flight_id) filter (where record_kind = 'closed') as not_completed,
    from {{ ref('stg_flights') }}
),

published as (
    select
        count(*) as flights,
        count(is_late) as completed,
        count(*) filter (where outcome in ('cancelled', 'diverted')) as not_completed,
    from {{ ref('flight_spine') }}
)

select * from told
except
select * from published
