with airports as (select * from {{ ref('base_airports') }}),

renamed as (
    select
        -- keys
        faa as airport,

        -- times
        _loaded_at,

        -- strings
        name as airport_name,
        tzone as time_zone,

        -- numbers
        lat as latitude_deg,
        lon as longitude_deg,
    from airports
    where _problem is null
)

select * from renamed
