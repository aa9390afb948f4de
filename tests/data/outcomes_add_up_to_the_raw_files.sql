-- Totals tied back to the records read (and these to the raw lines by
-- lines_are_staged_or_quarantined): every flight told of is in the spine, with one arrival line
-- per label and one closing line per flight that was cancelled or diverted.
{{ config(tags=['whole']) }}
with told as (
    select
        count(distinct flight_id) as flights,
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
