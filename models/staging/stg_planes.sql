with planes as (select * from {{ ref('base_planes') }}),

renamed as (
    select
        -- keys
        tailnum,

        -- times
        _loaded_at,

        -- strings
        type as aircraft_type,
        manufacturer,
        model,
        engine as engine_type,

        -- numbers
        year as year_built,
        engines as engine_count,
        seats as seat_count,
    from planes
    where _problem is null
)

select * from renamed
